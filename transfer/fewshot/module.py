"""The LightningModule of a meta run: a step is a batch of episodes, validation is on episodes of unseen classes."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from transfer import freezing, optim, parameters
from transfer.checkpoints import BestWeights
from transfer.config import Freezing
from transfer.fewshot.maml import Tensors, over_episodes, toward, trajectory
from transfer.fewshot.prototypes import LOGITS, embed
from transfer.fewshot.settings import GRADIENT, MEASURED
from transfer.plan import Plan

# Adam's rate for what multiplies `inner_lr`: by at most a hundredth of it in a step, whatever the model's own rate.
MULTIPLIERS_LR = 0.01
MULTIPLIERS, JOINT = "multipliers.", "joint."


class MetaModule(LightningModule):
    """Trains `model` so that few steps, or none, adapt it to an episode.

    Attributes:
        multipliers: of `inner_lr`, one for each tensor that adapts; learned with `learn_inner_lr`.
        joint: of a regression, the same model trained in the same steps on the same rows, of all domains at once.
        batched: whether the episodes of a step go through `vmap`.
    """

    def __init__(self, model: PreTrainedModel, task: Any, plan: Plan, num_support: int) -> None:
        super().__init__()
        self.model: Any = model
        self.task, self.plan, self.meta, self.num_support = task, plan, plan.meta, num_support
        self.measured = MEASURED[plan.task.name]
        self.joint: Any = copy.deepcopy(model) if self.measured == "mse" else None
        inside = parameters.in_backbone(model)
        names = [name for name, _ in model.named_parameters() if plan.meta.algorithm != "anil" or not inside(name)]
        wanted = plan.meta.learn_inner_lr
        self.adapting = names
        self.multipliers = nn.ParameterList([nn.Parameter(torch.ones(()), requires_grad=wanted) for _ in names])
        self.batched = True
        self.freezing = freezing.FreezingCallback(model, freezing.make(model, Freezing()))
        self.scores: list[Tensor] = []
        self.losses: list[Tensor] = []
        # What the record of a run tells of its training.
        self.splits, self.features, self.adapted = plan.trainer.accumulate_grad_batches, None, None
        self.num_examples = self.num_tokens = 0
        self.num_padding = torch.zeros((), dtype=torch.int64)
        self.train()

    def train(self, mode: bool = True) -> MetaModule:
        """Always as in evaluation: dropout would make noise of the inner steps, and batch norms learn from queries."""
        return super().train(False)

    def rates(self, scale: float = 1.0) -> dict[str, Tensor]:
        """Name -> the rate of its inner steps."""
        factor = self.meta.inner_lr * scale
        return {name: factor * each for name, each in zip(self.adapting, self.multipliers, strict=True)}

    def start(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def logits(self, weights: Tensors, inputs: dict[str, Tensor]) -> Any:
        """The model's outputs with these weights in place of its own."""
        inputs = inputs if self.batched else without_padding(inputs)
        return functional_call(self.model, dict(weights), kwargs=self.given(inputs), tie_weights=True)

    def given(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs as the model takes them from here."""
        return added_masks(inputs) if self.batched else inputs

    def loss_of(self, weights: Tensors, rows: dict[str, Any]) -> Tensor:
        """Mean loss over the rows of one episode."""
        loss: Tensor = self.task.loss(self.logits(weights, rows["inputs"]), rows)
        return loss

    def parts(self, episode: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Support and query of one episode."""
        cut = self.num_support
        return pytree.tree_map(lambda each: each[:cut], episode), pytree.tree_map(lambda each: each[cut:], episode)

    def objective(self, episode: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the optimizer descends on this episode, and the loss to show."""
        algorithm, steps = self.meta.algorithm, self.meta.inner_steps
        if algorithm not in GRADIENT:
            loss = F.cross_entropy(self.compared(episode), self.parts(episode)[1]["labels"])
            return loss, loss
        start = self.start()
        if algorithm == "reptile":  # all rows of the episode are its training rows
            after = trajectory(self.loss_of, start, self.rates(), episode, steps, first_order=True)[-1]
            after = {name: weight.detach() for name, weight in after.items()}
            return toward(start, after), self.loss_of(after, episode)
        support, query = self.parts(episode)
        first_order = algorithm == "fomaml"
        after = trajectory(self.loss_of, start, self.rates(), support, steps, first_order=first_order)[-1]
        loss = self.loss_of(after, query)
        return loss, loss

    def compared(self, episode: dict[str, Any]) -> Tensor:
        """Logits [queries, ways] of prototypes or matching."""
        inputs = episode["inputs"]
        vectors = embed(self.model, self.given(inputs), inputs.get("attention_mask"))
        way = LOGITS[self.meta.algorithm]
        return way(vectors[: self.num_support], vectors[self.num_support :], self.meta.ways)

    def curve(self, episode: dict[str, Any], start: Tensors, rates: Any, steps: list[int]) -> tuple[Tensor, Tensor]:
        """Score and loss on the queries after each of these numbers of steps on the support, [steps] both."""
        support, query = self.parts(episode)
        passed = trajectory(self.loss_of, start, rates, support, max(steps), first_order=True)
        outputs = [self.logits(passed[number], query["inputs"]) for number in steps]
        losses = torch.stack([self.task.loss(each, query) for each in outputs])
        return torch.stack([self.score(each.logits, query["labels"]) for each in outputs]), losses

    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Accuracy, or the mean squared error in the label's own units."""
        if self.measured == "mse":
            return F.mse_loss(logits.squeeze(-1), labels)
        return (logits.argmax(dim=-1) == labels).float().mean()

    def own(self, episode: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Score and loss of the run's own algorithm, as it is trained."""
        if self.meta.algorithm in GRADIENT:
            scores, losses = self.curve(episode, self.start(), self.rates(), [self.meta.inner_steps])
            return scores[0], losses[0]
        logits, labels = self.compared(episode), self.parts(episode)[1]["labels"]
        return self.score(logits, labels), F.cross_entropy(logits, labels)

    def over(self, function: Any) -> Any:
        return over_episodes(function, batched=self.batched)

    def on_train_epoch_start(self) -> None:
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.trainer.current_epoch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        episodes = {name: batch[name] for name in ("inputs", "labels")}
        objective, shown = self.over(self.objective)(episodes)
        loss: Tensor = objective.mean()
        self.log("train/loss", shown.detach().mean(), prog_bar=True, batch_size=len(shown))
        if self.joint is not None:
            rows = pytree.tree_map(lambda each: each.flatten(0, 1), episodes)
            together = self.task.loss(self.joint(**rows["inputs"]), rows)
            self.log("train/joint_loss", together.detach(), batch_size=len(shown))
            loss = loss + together
        self.num_examples += len(batch["index"])
        self.num_tokens += len(batch["index"])
        if "attention_mask" in batch["inputs"]:
            mask = batch["inputs"]["attention_mask"]
            self.num_tokens += mask.numel() - len(batch["index"])
            self.num_padding = self.num_padding + (mask == 0).sum()
        return loss

    def on_validation_epoch_start(self) -> None:
        self.scores, self.losses = [], []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        # Lightning's inference mode allows no gradients, of which the inner steps are made.
        with torch.inference_mode(False), torch.no_grad():
            episodes = {name: pytree.tree_map(torch.clone, batch[name]) for name in ("inputs", "labels")}
            scores, losses = self.over(self.own)(episodes)
        self.scores.append(scores)
        self.losses.append(losses)

    def on_validation_epoch_end(self) -> None:
        self.log(f"val/{self.measured}", torch.cat(self.scores).mean(), prog_bar=True)
        self.log("val/loss", torch.cat(self.losses).mean())

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        for part in (self.model, self.joint):
            if gradient_clip_val and part is not None:
                torch.nn.utils.clip_grad_norm_(
                    [each for each in part.parameters() if each.grad is not None], gradient_clip_val
                )

    def configure_optimizers(self) -> Any:
        settings = self.plan.optimizer
        groups = optim.parameter_groups(self.model, settings, self.freezing.plan, None)
        if self.joint is not None:
            more = optim.parameter_groups(self.joint, settings, self.freezing.plan, None)
            groups += [{**group, "name": f"joint_{group['name']}"} for group in more]
        if self.meta.learn_inner_lr:
            rate = {"lr": MULTIPLIERS_LR, "weight_decay": 0.0, "name": "multipliers"}
            groups.append({"params": list(self.multipliers), **rate})
        optimizer = optim.build(groups, settings, key="source.optimizer")
        steps = int(self.trainer.estimated_stepping_batches)
        task = self.plan.task
        scheduler = optim.schedule(optimizer, self.plan.scheduler, steps, mode=task.mode, key="source.scheduler")
        plateau = self.plan.scheduler.name == "plateau"
        every = {"interval": "epoch", "monitor": f"val/{task.monitor}"} if plateau else {"interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **every}}


def without_padding(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows, padded to the longest of them: those of a batch of episodes are padded to its longest."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    kept = mask.any(dim=0)
    return {name: each[:, kept] if each.shape == mask.shape else each for name, each in inputs.items()}


def added_masks(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with attention masks as they are added to scores [rows, 1, 1, tokens].

    Of a mask of rows and tokens transformers reads the values, which `vmap` does not allow. Only models that look in
    both directions answer the same to both; `stage.choose_mapping` sees to that.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    dtype = torch.get_default_dtype()
    return {**inputs, "attention_mask": (1.0 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min}


class BestStart(BestWeights):
    """The best start with what belongs to it: its inner rates, and the joint model of the same moment."""

    def take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.see(metrics, trainer.global_step, lambda: held(pl_module))


def held(module: Any) -> dict[str, Tensor]:
    """A copy of all weights of the module, those of the model with its own names."""
    prefix = "model."
    return {name.removeprefix(prefix): each.detach().cpu().clone() for name, each in module.state_dict().items()}


def restore(module: MetaModule, weights: dict[str, Tensor]) -> None:
    """Put back what `held` gave."""
    others = (MULTIPLIERS, JOINT)
    module.load_state_dict({n if n.startswith(others) else f"model.{n}": each for n, each in weights.items()})
