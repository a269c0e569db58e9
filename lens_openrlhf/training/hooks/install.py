"""Where the classes of this folder are put into OpenRLHF."""

from __future__ import annotations

from types import SimpleNamespace

from ..commandline.estimator import make_estimator


def install_hooks(args: SimpleNamespace) -> None:
    """Exchange the classes that OpenRLHF's `train` builds the run from, in this process."""
    import openrlhf.cli.train_ppo_ray as command
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.vllm_engine as vllm_engine

    from .actor import LensPolicyModelActor
    from .rollout import LensRolloutActor, LensRolloutActorWithLogprobs
    from .trainer import LensPPOTrainer, LensPPOTrainerAsync

    estimator = make_estimator(args)
    from_rollout = getattr(estimator and estimator.config, "confidence_from", None) == "rollout"
    command.PolicyModelActor = LensPolicyModelActor
    vllm_engine.RolloutRayActor = LensRolloutActorWithLogprobs if from_rollout else LensRolloutActor
    ppo_trainer.PPOTrainer = LensPPOTrainer
    ppo_trainer_async.PPOTrainerAsync = LensPPOTrainerAsync
