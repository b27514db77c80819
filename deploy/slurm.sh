#!/bin/bash
# A command of Penstock on a Ray cluster that lives as long as one Slurm job.
#
#   sbatch --nodes=4 --cpus-per-task=32 deploy/slurm.sh curate recipe.yaml
#
# Change the defaults below, or give them to sbatch. --exclusive: Ray refuses to start, and its end stops
# everything of yours, where you have another Ray on the node. Slurm's time limit may end the job at any time:
# submit the same line again, and it continues. Inputs and `work` are on a file system that all
# nodes share. Packages: an environment on that file system, named by PENSTOCK_ENV.
#
#SBATCH --job-name=penstock
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=penstock-%j.log

set -euo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: sbatch [OPTIONS] deploy/slurm.sh COMMAND RECIPE [OPTION...]" >&2
    exit 2
fi
if [[ -n "${PENSTOCK_ENV:-}" ]]; then
    export PATH="$PENSTOCK_ENV/bin:$PATH"
fi

# Other users of these nodes can reach Ray's ports: each caller needs the token, which is in a file
# that only you can read, in a directory that all nodes share.
token_directory="${PENSTOCK_TOKENS:-$HOME/.penstock-slurm}"
(umask 077 && mkdir -p "$token_directory")
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$token_directory/$SLURM_JOB_ID"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
began="$RAY_AUTH_TOKEN_PATH.began"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH" "$began"' EXIT

# Ray's sockets and logs: on each node's own disk, short (a socket's name has 107 bytes), and of a name
# that no other user can have made before. They stay, for a look after a failure.
ray_directory="/tmp/ray-$SLURM_JOB_ID-$(python -c 'import secrets; print(secrets.token_hex(4))')"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
addresses="$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --all-ip-addresses)"
export RAY_ADDRESS="${addresses%% *}:$((20000 + SLURM_JOB_ID % 10000))"
export RAY_USAGE_STATS_ENABLED=0
# Seconds: an environment on a shared file system is slow to start from.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_raylet_start_wait_time_s=120

# Starts Ray on every node, runs the command on the head, and stops Ray. Its status is the command's,
# but 0 where Ray did not start: hence the file.
# shellcheck disable=SC2016  # the inner shell expands them
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$ray_directory" --include-dashboard=false -- \
    bash -c 'touch "$0" && exec "$@"' "$began" python -m penstock "$@" --runner ray
if [[ ! -e "$began" ]]; then
    echo "Ray did not start; the reason is above" >&2
    exit 1
fi
