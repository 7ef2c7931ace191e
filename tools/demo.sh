#!/bin/sh
# demo.sh BIN [TRAIN OPTIONS]: the whole job on the built-in shapes, in minutes: train, evaluate, predict, and name
# what came out. BIN is the folder of the detrctl command.
set -eu

bin=$1
shift
run=runs/demo
n=1
while [ -e "$run" ]; do
    n=$((n + 1))
    run=runs/demo-$n
done

say() {
    printf '\n== %s\n' "$*"
}

say "detrctl train quickstart --data shapes --out $run $*"
"$bin/detrctl" train quickstart --data shapes --out "$run" "$@"

say "detrctl eval --ckpt $run"
"$bin/detrctl" eval --ckpt "$run"

shapes=$("$bin/python" -c 'from detrctl.data.shapes import ensure_shapes; print(ensure_shapes())')
images="$shapes/images/val/0000[01][0-5].png" # 12 images that training has not seen
say "detrctl predict '$images' --ckpt $run --out $run/pictures"
"$bin/detrctl" predict "$images" --ckpt "$run" --out "$run/pictures"

checkpoint=$run/checkpoints/best.pt
[ -e "$checkpoint" ] || checkpoint=$run/checkpoints/last.pt
echo; printf "Picture:    %s\n" "$run"/pictures/*.jpg
printf 'Checkpoint: %s\n' "$checkpoint"
