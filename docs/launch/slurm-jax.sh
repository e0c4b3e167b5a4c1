#!/usr/bin/env bash
# Train one model on all cards of several hosts with JAX, by SLURM: one process on each host.
#
#     sbatch --nodes 4 docs/launch/slurm-jax.sh --preset gpt2-xl --data /shared/tokens --out_dir /shared/xl
#
# The flags are those of train.py. Before its time is up SLURM sends SIGTERM, process 0 saves the run, and the same
# command goes on with it. Only the first host reads the text and writes the run.
#SBATCH --job-name=nanogpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export JAX_COORDINATOR_ADDRESS=$host:9999
exec srun --kill-on-bad-exit --cpus-per-task="$SLURM_CPUS_PER_TASK" python train.py --backend jax "$@"
