#!/usr/bin/env bash
# The paper's run (arXiv 2601.10498) in VeRL: Qwen3-0.6B on GSM8K, PROMA, one NVIDIA GPU with 80 GB.
#
#     python -m pip install "verl[vllm]==0.9.1" ".[verl]"             # in a checkout of proma_bench
#     python -m pip install --no-build-isolation flash-attn==2.8.3    # compiles: needs that torch, and CUDA's nvcc
#     bash examples/verl_gsm8k.sh
#
# Further arguments are Hydra overrides of VeRL's: trainer.n_gpus_per_node=8, +actor_rollout_ref.actor.max_removed=null, ...
# NOT YET RUN ON A GPU. What has been: a step of this command on a CPU, with a tiny model and random answers in vLLM's place.
set -euo pipefail

data="${DATA:-$HOME/data/gsm8k}"
python="${PYTHON:-python3}"
[[ -e "$data/train.parquet" ]] || "$python" "$(dirname "$0")/verl_gsm8k_data.py" "$data"

actor=actor_rollout_ref.actor
settings=(
    # PROMA: iterative, 2 sweeps, clamp 0.5, shrinkage 1
    "$actor._target_=proma_bench.integrations.verl.PromaActorConfig"
    "$actor.policy_loss.loss_mode=proma"
    "$actor.strategy=fsdp2"
    "$actor.fsdp_config.use_no_sync_for_gradient_accumulation=True"
    "+$actor.projection=iterative"
    "+$actor.sweeps=2"
    "+$actor.max_removed=0.5"
    "+$actor.shrinkage=1.0"

    # the policy, in bf16 with gradient checkpointing
    "actor_rollout_ref.model.path=Qwen/Qwen3-0.6B"
    "actor_rollout_ref.model.use_remove_padding=True"
    "actor_rollout_ref.model.enable_gradient_checkpointing=True"
    "+$actor.fsdp_config.mixed_precision={param_dtype:bf16,reduce_dtype:fp32,buffer_dtype:fp32}"

    # a batch: 128 prompts, 8 answers each, at temperature 1
    "data.train_files=$data/train.parquet"
    "data.val_files=$data/test.parquet"
    "data.train_batch_size=128"
    "data.max_prompt_length=512"
    "data.max_response_length=2048"
    "actor_rollout_ref.rollout.name=vllm"
    "actor_rollout_ref.rollout.n=8"
    "actor_rollout_ref.rollout.temperature=1.0"
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1"
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32"
    "algorithm.adv_estimator=grpo" # advantages normalised within a group; no clipping, no ratio

    # an optimizer step: 64 prompts, 512 sequences, in microbatches of 8
    "$actor.ppo_mini_batch_size=64"
    "$actor.ppo_micro_batch_size_per_gpu=8"
    "$actor.loss_agg_mode=token-mean"
    "$actor.optim.lr=2e-6"
    "$actor.entropy_coeff=0"
    "$actor.use_kl_loss=False"
    "algorithm.use_kl_in_reward=False"

    # about 300 optimizer steps, two a batch; validation is greedy
    "trainer.total_training_steps=150"
    "trainer.total_epochs=3"
    "trainer.test_freq=5"
    "actor_rollout_ref.rollout.val_kwargs.do_sample=False"
    "actor_rollout_ref.rollout.val_kwargs.temperature=0"
    "trainer.nnodes=1"
    "trainer.n_gpus_per_node=1"
    "trainer.logger=[console]"
    "trainer.project_name=proma"
    "trainer.experiment_name=gsm8k"
)
exec "$python" -m verl.trainer.main_ppo "${settings[@]}" "$@"
