#!/bin/bash
module load cuda
machine=${SLURMD_NODENAME:-$(hostname)}
# A network file system may be mounted late, and show a new file late.
for _ in {1..5}; do [ -d STORE ] && break; sleep 1; done
[ -d STORE ] || exit 81
for _ in {1..30}; do [ -e STORE/probes/SIGNATURE-NONCE ] && break; sleep 1; done
[ -e STORE/probes/SIGNATURE-NONCE ] || exit 82
head -c 1048576 /dev/zero > STORE/probes/SIGNATURE-NONCE.partial || exit 83
tell() {
  printf '%s\n%s\n%s\n' "$1" "$machine" "$2" > STORE/probes/SIGNATURE-NONCE.partial && mv STORE/probes/SIGNATURE-NONCE.partial STORE/probes/SIGNATURE-NONCE.found || exit 83
}
said=$(PYTHON -c 'import harness.slurm.job' 2>&1) || { tell 'the Python of this command (PYTHON)' "$said"; exit 84; }
tell ok ""
