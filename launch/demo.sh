#!/usr/bin/env bash
# What `make demo` does once the environment is there: launch/demo.sh [FOLDER [RESOLUTION]]; no folder means scikit-learn's digits.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-} resolution=${2:-}

if [[ -z $folder ]]; then
  experiment=digits resolution=${resolution:-16} out=demo/digits-$resolution
  source=(source=digits split.holdout=197)
else
  [[ -d $folder ]] || { echo "DATA=$folder: no such folder; wanted a folder of pictures" >&2; exit 1; }
  name=$(basename "$(realpath "$folder")")
  experiment=pictures resolution=${resolution:-64} out=demo/${name//[^A-Za-z0-9._-]/_}-$resolution
  source=(source=folder "path='${folder//\'/\\\'}'" allow_upscale=true on_error=skip)
fi

hires prepare "${source[@]}" "resolution=$resolution" "out=$out/data"
hires train "experiment=$experiment" "data.root=$out/data" "run=$out/run" "schedule.resolution=$resolution"
rm -rf "$out/bundle" # made anew from the run's end
hires export "run=$out/run" "out=$out/bundle"
hires sample "sampler=$out/bundle" "out=$out/samples.png"
hires video "sampler=$out/bundle" "out=$out/interpolation.mp4"
cp "$(find "$out/run/samples" -name 'reconstructions-*.png' | sort | tail -n 1)" "$out/reconstructions.png"

echo
echo "The demo made:"
echo "  $out/samples.png          pictures of the generator"
echo "  $out/reconstructions.png  pairs: a picture, and the generator's from its inferred latent"
echo "  $out/interpolation.mp4    a walk between latents"
echo "  $out/bundle               generator, inference model and energy; load them without this project: see $out/bundle/README.md"
echo "  $out/run                  the run: metrics.jsonl, checkpoints, and grids as it grew"
