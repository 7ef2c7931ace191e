"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("data");
  const pictures = read("pictures");
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);
  const state = { image: 0, layer: 0, truth: 0, query: null };

  // ---- small tools ----

  function make(name, attributes = {}, ...children) {
    return fill(document.createElement(name), attributes, children);
  }
  function draw(name, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, name), attributes, children);
  }
  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  const number = (value, digits = 3) => (value === null || value === undefined ? "none" : value.toFixed(digits));
  const perCent = (value) => (value === null || value === undefined ? "none" : `${(100 * value).toFixed(0)} %`);
  const share = (part) => (part.of ? part.changed / part.of : null);
  const cheapest = data.cheapest === 1 ? "cheapest query" : `${data.cheapest} cheapest queries`;
  const named = (query) => (query < 0 ? "none" : String(query));

  // A table whose columns sort. A column: [title, how to read a row's value, how to show it]; text columns show null.
  // A sort that was chosen stays when the element gets other rows.
  const orders = new WeakMap();
  function table(element, caption, columns, rows, decorate = () => {}) {
    const body = make("tbody");
    const heads = columns.map(([title, , show], index) => {
      const button = make("button", { type: "button" }, title);
      const head = make("th", { scope: "col", class: show ? null : "text", "aria-sort": "none" }, button);
      button.addEventListener("click", () => {
        const order = orders.get(element);
        sort(index, !(order && order.index === index && order.up));
      });
      return head;
    });
    function sort(index, up) {
      orders.set(element, { index, up });
      heads.forEach((head) => head.setAttribute("aria-sort", "none"));
      heads[index].setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = columns[index][1];
      const missing = (x) => x === null || x === undefined;
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
      const sorted = rows.map((row, place) => [value(row), place]).sort(([a, i], [b, j]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
        return (up ? 1 : -1) * compare(a, b) || i - j;
      });
      body.append(...sorted.map(([, place]) => lines[place]));
    }
    const lines = rows.map((row) => {
      const cells = columns.map(([, value, show]) => {
        const plain = value(row);
        const text = show ? show(plain) : plain === null ? "none" : String(plain);
        return make("td", { class: show ? null : "text" }, text);
      });
      const line = make("tr", {}, ...cells);
      decorate(line, row);
      return line;
    });
    body.append(...lines);
    const order = orders.get(element);
    if (order) sort(order.index, order.up);
    element.replaceChildren(make("caption", {}, caption), make("thead", {}, make("tr", {}, ...heads)), body);
    return element;
  }
  const boxed = (caption, columns, rows) =>
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table(make("table"), caption, columns, rows));

  // What is drawn anew, or scrolled, under a pointer at rest is entered too. Only a pointer that moved means it.
  let pointer = null;
  const remember = (event) => { pointer = [event.clientX, event.clientY]; };
  const rests = (event) => pointer && Math.hypot(event.clientX - pointer[0], event.clientY - pointer[1]) < 2;
  document.addEventListener("pointermove", remember, true);
  function onPointing(element, action) {
    element.addEventListener("pointerenter", (event) => {
      if (rests(event)) return;
      remember(event); // an element that is drawn anew now never hears of the move
      action();
    });
  }

  // ---- one image ----

  const image = () => data.images[state.image];
  const layer = () => image().layers[state.layer];
  const className = (label) => data.classes[label];

  function place(box) {
    const { width, height } = image();
    return { x: (box[0] - box[2] / 2) * width, y: (box[1] - box[3] / 2) * height, width: box[2] * width, height: box[3] * height };
  }
  const outline = (kind, box, more = {}) => [draw("rect", { class: "under", ...place(box) }), draw("rect", { class: kind, ...place(box), ...more })];
  const queryBox = (query) => layer().queries[query].slice(2);

  function pairGroup(truth, index) {
    const told = layer().truths[index];
    const chosen = index === state.truth;
    const label = `Truth ${index}, ${className(truth.label)}: ${told.query < 0 ? "no query" : `query ${told.query}`}`;
    const corner = place(truth.box);
    const size = Math.max(image().width, image().height) / 46;
    const parts = [...outline("truth", truth.box)];
    if (told.query >= 0) parts.push(...outline("pair", queryBox(told.query), { "data-query": told.query }));
    parts.push(draw("rect", { class: "touch", ...corner }));
    parts.push(draw("text", { class: "tag", x: Math.max(corner.x, 0) + size / 4, y: Math.max(corner.y, 0) + size * 1.05, "font-size": size, style: `font-size:${size}px;stroke-width:${size / 4}px`, "aria-hidden": "true" }, `${index} ${className(truth.label)}`));
    const group = draw("g", {
      class: `truth-group ${chosen ? "chosen" : "quiet"}`,
      tabindex: 0, role: "button", "aria-label": label, "aria-pressed": String(chosen), "data-truth": index, "data-query": told.query,
    }, ...parts);
    group.addEventListener("focus", () => choose(index));
    group.addEventListener("click", () => choose(index)); // what assistive technology sends
    onPointing(group, () => choose(index));
    return group;
  }

  function drawPicture() {
    const svg = byId("picture");
    const { width, height, truths } = image();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const back = draw("image", { href: pictures[state.image], width, height, preserveAspectRatio: "none", "aria-hidden": "true" });
    const order = truths.map((truth, index) => index).sort((a, b) => area(truths[b]) - area(truths[a]));
    svg.replaceChildren(back, ...order.map((index) => pairGroup(truths[index], index)), draw("g", { id: "overlay", "pointer-events": "none", "aria-hidden": "true" }));
    drawOverlay();
  }
  const area = (truth) => truth.box[2] * truth.box[3];

  function drawOverlay() {
    const overlay = byId("overlay");
    const told = layer().truths[state.truth];
    const parts = [];
    if (told) {
      if (byId("others").checked) {
        parts.push(...told.table.flatMap(([query]) => listed(query)));
      }
      if (told.query >= 0) parts.push(edge("edge", told.query));
      if (told.runner_up >= 0) {
        parts.push(...outline("runner", queryBox(told.runner_up), { "data-query": told.runner_up }), edge("edge", told.runner_up));
      }
      if (state.query !== null && layer().queries[state.query]) {
        parts.push(...outline("query", queryBox(state.query), { "data-query": state.query }));
      }
    }
    overlay.replaceChildren(...parts);
  }

  // A wide line that nobody sees to point at: the query's row in the table of costs is marked then.
  function edge(kind, query) {
    const line = draw("rect", { class: kind, ...place(queryBox(query)), "data-query": query });
    onPointing(line, () => { point(query); bringRow(query); });
    line.addEventListener("pointerleave", () => point(null));
    return line;
  }
  const listed = (query) => [draw("rect", { class: "faint", ...place(queryBox(query)) }), edge("line", query)];

  // Focus stays where it is, so nothing that can hold it is drawn anew here.
  function choose(index) {
    if (index === state.truth) return;
    state.truth = index;
    state.query = null;
    markChosen();
    drawOverlay();
    tellTruth();
  }
  function markChosen() {
    for (const group of document.querySelectorAll(".truth-group")) {
      const chosen = Number(group.dataset.truth) === state.truth;
      group.classList.toggle("chosen", chosen);
      group.classList.toggle("quiet", !chosen);
      group.setAttribute("aria-pressed", String(chosen));
    }
    for (const line of byId("truths").querySelectorAll("tbody tr")) {
      line.classList.toggle("chosen", Number(line.dataset.truth) === state.truth);
    }
  }
  function point(query) {
    if (query === state.query) return;
    state.query = query;
    drawOverlay();
    for (const line of byId("costs").querySelectorAll("tbody tr")) {
      line.classList.toggle("pointed", Number(line.dataset.query) === query);
    }
  }

  // Only the table scrolls, never the page under the pointer.
  function bringRow(query) {
    const line = byId("costs").querySelector(`tr[data-query="${query}"]`);
    const view = byId("costs").parentElement;
    view.scrollTop += line.getBoundingClientRect().top - view.getBoundingClientRect().top - view.clientHeight / 2;
  }

  const entryOf = (told, query) => told.table.find((row) => row[0] === query) ?? null;

  function tellTruths() {
    const rows = image().truths.map((truth, index) => ({ index, truth, told: layer().truths[index] }));
    const cost = (part) => ({ told }) => entryOf(told, told.query)?.[part] ?? null;
    table(byId("truths"), `Truths, decoder layer ${state.layer + 1}`, [
      ["truth", ({ index }) => index, String],
      ["class", ({ truth }) => className(truth.label), null],
      ["size", ({ truth }) => truth.size, null],
      ["query", ({ told }) => told.query, named],
      ["cost", cost(4), number],
      ["IoU", cost(5), number],
      ["runner-up", ({ told }) => told.runner_up, named],
      ["margin", ({ told }) => told.margin, number],
    ], rows, (line, { index }) => {
      line.dataset.truth = index;
      line.tabIndex = 0;
      line.classList.toggle("chosen", index === state.truth);
      for (const event of ["focus", "click"]) line.addEventListener(event, () => choose(index));
      onPointing(line, () => choose(index));
    });
  }

  function tellTruth() {
    const told = layer().truths[state.truth];
    const detail = byId("detail");
    if (!told) {
      detail.replaceChildren(make("p", {}, "This image has no truths."));
      byId("costs").replaceChildren();
      return;
    }
    const truth = image().truths[state.truth];
    const mine = entryOf(told, told.query);
    const other = entryOf(told, told.runner_up);
    const lines = [make("p", {}, make("strong", {}, `Truth ${state.truth}: ${className(truth.label)}, ${truth.size}`), ` in decoder layer ${state.layer + 1} of ${image().layers.length}`)];
    lines.push(make("p", {}, mine ? `Matched by query ${told.query}${said(told.query)}: ${terms(mine)}.` : "No query is left for it."));
    lines.push(make("p", {}, other ? `Runner-up: query ${told.runner_up}${said(told.runner_up)}: ${terms(other)}; the whole matching would cost ${number(told.margin)} more.` : "There is no runner-up."));
    const rank = Math.min(told.table.findIndex((row) => row[0] === told.query), data.cheapest); // beyond it rows are left out
    const least = rank === data.cheapest ? "at least " : "";
    if (rank > 0) lines.push(make("p", {}, `Cheaper for this truth would be ${least}${rank === 1 ? "one query, which answers" : `${rank} queries, which answer`} for others.`));
    detail.replaceChildren(...lines);
    detail.dataset.truth = state.truth;
    detail.dataset.query = told.query;
    detail.dataset.layer = state.layer;
    tellCosts(told);
  }
  function said(query) {
    const [label, score] = layer().queries[query];
    const token = data.two_stage ? `, token ${image().tokens[query]}` : "";
    return ` (says ${className(label)} at ${number(score, 2)}${token})`;
  }
  function terms([, cls, l1, giou, total]) {
    const { class_cost: a, l1: b, giou: c } = data.weights;
    return `cost ${number(total)} = ${a} × class ${number(cls)} + ${b} × L1 ${number(l1)} + ${c} × GIoU ${number(giou)}`;
  }

  function tellCosts(told) {
    const answersFor = new Map(layer().truths.map((other, index) => [other.query, index]));
    table(byId("costs"), `Truth ${state.truth}: the ${cheapest}, and its match and runner-up`, [
      ["query", (row) => row[0], String],
      ["here", (row) => (row[0] === told.query ? "match" : row[0] === told.runner_up ? "runner-up" : "–"), null],
      ["matched to", (row) => answersFor.get(row[0]) ?? null, (value) => (value === null ? "–" : `truth ${value}`)],
      ["cost", (row) => row[4], number],
      ["class", (row) => row[1], number],
      ["L1", (row) => row[2], number],
      ["GIoU", (row) => row[3], number],
      ["IoU", (row) => row[5], number],
      ["says", (row) => className(layer().queries[row[0]][0]), null],
      ["score", (row) => layer().queries[row[0]][1], (value) => number(value, 2)],
    ], told.table, (line, row) => {
      line.dataset.query = row[0];
      line.tabIndex = 0;
      line.classList.toggle("is-match", row[0] === told.query);
      line.classList.toggle("is-runner", row[0] === told.runner_up);
      line.addEventListener("focus", () => point(row[0]));
      onPointing(line, () => point(row[0]));
      for (const event of ["blur", "pointerleave"]) line.addEventListener(event, () => point(null));
    });
  }

  function showLayer() {
    byId("layer-name").textContent = `${state.layer + 1} of ${image().layers.length}`;
    byId("layer").setAttribute("aria-valuetext", `layer ${state.layer + 1} of ${image().layers.length}`);
    drawPicture();
    tellTruths();
    tellTruth();
  }
  function showImage(index) {
    Object.assign(state, { image: index, truth: 0, query: null, layer: image().layers.length - 1 });
    state.layer = data.images[index].layers.length - 1;
    byId("layer").max = state.layer + 1;
    byId("layer").value = state.layer + 1;
    showLayer();
  }

  function startImages() {
    if (!data.images.length) {
      byId("look").hidden = true;
      return;
    }
    byId("image").append(...data.images.map((each, index) => make("option", { value: index }, `${each.image_id} (${each.truths.length} truths)`)));
    byId("image").addEventListener("change", (event) => showImage(Number(event.target.value)));
    byId("layer").addEventListener("input", (event) => {
      state.layer = Number(event.target.value) - 1;
      state.query = null;
      showLayer();
    });
    byId("others").addEventListener("change", drawOverlay);
    showImage(0);
  }

  // ---- the split, the training, the denoising ----

  const main = data.runs[0].checkpoints.at(-1);
  const termColumns = [
    ["truths", (row) => row.terms.truths, String],
    ["cost", (row) => row.terms.cost_total, number],
    ["class", (row) => row.terms.cost_class, number],
    ["L1", (row) => row.terms.cost_l1, number],
    ["GIoU", (row) => row.terms.cost_giou, number],
    ["IoU", (row) => row.terms.iou, number],
    ["score", (row) => row.terms.score, number],
    ["margin", (row) => row.terms.margin, number],
    ["found", (row) => row.terms.found, perCent],
    ["next layer changes", (row) => row.changes, (value) => (value === null ? "–" : perCent(value))],
  ];

  const lastColumns = termColumns.map(([title, ...rest]) => [title === "next layer changes" ? "changed last" : title, ...rest]);

  function tellSplit() {
    const rows = main.layers.map((each, index) => ({ name: each.layer + 1, terms: each.all, changes: change(index, (step) => step.all) }));
    byId("split").append(boxed(`Matched pairs by decoder layer, ${main.name}`, [["layer", (row) => row.name, String], ...termColumns], rows));
    const last = main.layers.length - 1;
    for (const [title, field] of [["size", "by_size"], ["class", "by_class"]]) {
      if (last < 0) break;
      const groups = Object.entries(main.layers[last][field]).map(([name, terms]) => ({ name, terms, changes: change(last - 1, (step) => step[field][name]) }));
      byId("split").append(boxed(`By ${title}, last layer`, [[title, (row) => row.name, null], ...lastColumns], groups));
    }
    byId("split").append(boxed(`Truths that no query finds: ${main.hard_truths} of ${main.truths}` + (main.hard.length < main.hard_truths ? `, the ${main.hard.length} hardest` : ""), [
      ["image", (row) => row.image_id, String], ["truth", (row) => row.truth, String], ["class", (row) => row.label, null], ["size", (row) => row.size, null],
      ["best IoU of any query", (row) => row.best_iou, number], ["matched query", (row) => row.query, named], ["its IoU", (row) => row.iou, number], ["its score", (row) => row.score, number],
    ], main.hard));
    const use = main.use;
    byId("split").append(make("h3", {}, "Queries"), make("p", {}, `${use.never.length} of ${use.queries} queries are never chosen in the last layer${data.two_stage ? "; in two stages a slot is but a rank" : ""}. ${use.never.length && use.never.length <= 200 ? `Never: ${use.never.join(", ")}.` : ""}`));
    const sizes = Object.entries(use.by_size).map(([size, times]) => [size, new Map(times)]);
    const ofSize = sizes.map(([size, times]) => [size, (row) => times.get(row[0]) ?? 0, String]);
    byId("split").append(boxed("Queries by times chosen, and for objects of which size", [["query", (row) => row[0], String], ["times", (row) => row[1], String], ...ofSize], use.times));
    const groups = Object.entries({ ...use.by_size, ...use.by_class }).map(([name, times]) => ({ name, different: times.length, most: times[0] ?? null }));
    byId("split").append(boxed("How many different queries answer for a size or a class", [["size or class", (row) => row.name, null], ["queries", (row) => row.different, String], ["most often", (row) => row.most && row.most[0], (query) => named(query ?? -1)], ["times", (row) => (row.most ? row.most[1] : 0), String]], groups));
  }
  function change(index, read) {
    const step = main.between_layers[index];
    const part = step && read(step);
    return part ? share(part) : null;
  }

  const titled = (run) => `${run.name}, ${run.denoising ? "with" : "without"} denoising`;

  function tellRuns() {
    if (data.runs.length < 2 || !main.layers.length) return;
    byId("runs-section").hidden = false;
    const rows = data.runs.map((run) => ({ run: titled(run), ...run.last, changes: run.last.changes && share(run.last.changes) }));
    const columns = [["run", (row) => row.run, null], ["checkpoint", (row) => row.name, null], ["layers", (row) => row.layers, String], ...lastColumns];
    byId("runs").append(boxed("Last checkpoint of each run, last layer; costs by the weights of its own matching", columns, rows));
  }

  function tellSteps() {
    const steps = data.runs.flatMap((run) => run.steps.map((step) => ({ run: titled(run), ...step })));
    if (!steps.length) return;
    byId("steps-section").hidden = false;
    const columns = [
      ["run", (step) => step.run, null], ["from", (step) => step.before, null], ["to", (step) => step.after, null], ["epochs apart", (step) => step.epochs, (x) => named(x ?? -1)],
      ["instability", (step) => step.instability, (x) => number(x, 2)], ["by token", (step) => step.by_token, (x) => number(x, 2)], ["at most", (step) => step.most, (x) => number(x, 2)],
      ["truths moved", (step) => share(step.moved.all), perCent],
      ...["small", "medium", "large"].map((size) => [size, (step) => share(step.moved.by_size[size]), perCent]),
    ];
    byId("steps").append(make("p", { class: "note" }, data.meanings.instability), boxed("Instability from checkpoint to checkpoint", columns, steps));
  }

  function tellDenoising() {
    if (!data.denoising) return;
    byId("denoising-section").hidden = false;
    const { summary, mask } = data.denoising;
    byId("denoising").append(
      make("p", {}, `${summary.rebuilt} noised truths were to be rebuilt${summary.refused ? `, ${summary.refused} to be refused as background` : ""}.`),
      boxed("What the layers make of noised truths", [
        ["layer", (row) => row.layer + 1, (x) => (x ? String(x) : "given")], ["IoU with the truth", (row) => row.iou, number], ["class right", (row) => row.class_right, perCent],
        ["score, to rebuild", (row) => row.score_rebuilt, number], ["score, to refuse", (row) => row.score_refused, number],
      ], [summary.given, ...summary.layers]),
    );
    tellNoised(data.denoising.images);
    const size = mask.known + mask.own;
    const svg = draw("svg", { class: "mask", viewBox: `0 0 ${size} ${size}`, role: "img", "shape-rendering": "crispEdges", "aria-label": `Attention mask: ${mask.known} noised queries in groups of ${mask.group}, then ${mask.own} of the model's own` });
    let y = 0;
    for (const [count, runs] of mask.rows) {
      let x = 0;
      runs.forEach((length, index) => {
        if (index % 2) svg.append(draw("rect", { class: "blocked", x, y, width: length, height: count }));
        x += length;
      });
      y += count;
    }
    byId("denoising").append(make("h3", {}, "Attention mask"), svg, make("p", { class: "note" }, `Rows look at columns; dark is blocked. The first ${mask.known} are noised truths in groups of ${mask.group}, the last ${mask.own} the model's own queries, which see no noised one.`));
  }

  function tellNoised(images) {
    if (images === null) {
      byId("denoising").append(make("p", { class: "note", id: "left-out" }, "The noised queries of the shown images are left out to keep this page under 5 MB; matching.json has them."));
      return;
    }
    if (!images.length) return;
    const rows = images.flatMap((each) => each.queries.map((query) => ({ image: each.image_id, aim: each.labels[query.truth], last: query.layers.at(-1), ...query })));
    byId("denoising").append(boxed("Noised queries of the shown images, first group", [
      ["image", (row) => row.image, String], ["truth", (row) => row.truth, String], ["to", (row) => row.part, null], ["is", (row) => className(row.aim), null], ["given as", (row) => className(row.label), null],
      ["IoU given", (row) => row.iou, number], ["IoU rebuilt", (row) => row.last.iou, number], ["says", (row) => className(row.last.label), null], ["score", (row) => row.last.score, number],
    ], rows));
  }

  function tellAbout() {
    byId("about").textContent = `${data.data}, split ${data.split}: ${main.images} images, ${main.truths} truths, ${main.use.queries} queries; ${data.images.length} images shown, as ${data.shown_of} matches them. Cost = ${data.weights.class_cost} × class + ${data.weights.l1} × L1 + ${data.weights.giou} × GIoU; lower is better.`;
    const { layers, boxes, ...words } = data.meanings; // these two are how matching.json counts
    for (const [word, meaning] of Object.entries(words)) byId("words").append(make("dt", {}, word.replaceAll("_", " ")), make("dd", {}, meaning.replaceAll("`", "")));
    for (const place of document.querySelectorAll(".cheapest")) place.textContent = cheapest;
  }

  tellAbout();
  startImages();
  tellSplit();
  tellRuns();
  tellSteps();
  tellDenoising();
})();
