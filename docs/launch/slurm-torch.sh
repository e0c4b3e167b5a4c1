#!/usr/bin/env bash
# Train one model on all cards of several hosts with torch, by SLURM: torchrun starts a process for each card.
#
#     sbatch --nodes 4 docs/launch/slurm-torch.sh --preset gpt2-xl --data /shared/tokens --out_dir /shared/xl
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

cards=8
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / cards > 0 ? SLURM_CPUS_PER_TASK / cards : 1))
exec srun --kill-on-bad-exit --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "$cards" \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$host:29500" \
    train.py --backend torch "$@"
