"""The same training by Hugging Face's `Trainer` at its defaults, and by a loop as one writes it by hand.

Both have the rows of this project's plan, tokenized before their clock starts, and the published model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Defaults of TrainingArguments, which the loop has too.
BATCH_SIZE, LEARNING_RATE, CLIP = 8, 5e-5, 1.0


@dataclass
class Peer:
    """What both train: the model, tokenized rows with `labels`, and what makes batches of them."""

    model: Any
    train: Any
    test: Any
    collator: Any

    @property
    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


def prepared(request: dict[str, Any]) -> Peer:
    """The model and the rows of a request (see `children.request`)."""
    import transformers
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from transfer import legs, plan
    from transfer.compose import compose
    from transfer.paths import PACKAGE_PREFIX, resolve_package_path

    plan_of = plan.make(compose(list(request["words"])))
    leg = legs.load(plan_of)
    name = request["model"]
    source = str(resolve_package_path(name)) if name.startswith(PACKAGE_PREFIX) else name
    transformers.set_seed(request["seed"])
    tokenizer = AutoTokenizer.from_pretrained(source)
    labels = leg.splits.labels
    settings = {"num_labels": len(labels)}
    if request["pretrained"]:
        model = AutoModelForSequenceClassification.from_pretrained(source, **settings)
    else:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(source, **settings))
    freeze(model, request["frozen"], request["half"])

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=plan_of.task.max_length)
        return {**encoded, "labels": [labels.index(label) for label in rows["label"]]}

    splits = [
        rows.map(encode, batched=True, remove_columns=rows.column_names, keep_in_memory=True)
        for rows in (leg.train, leg.splits.test)
    ]
    return Peer(model, *splits, DataCollatorWithPadding(tokenizer))


def freeze(model: Any, frozen: str, half: int) -> None:
    """ "half": the embeddings and the first `half` layers; "backbone": all but the head."""
    inside = model.base_model
    modules = {"none": [], "half": [inside.embeddings, *inside.encoder.layer[:half]], "backbone": [inside]}[frozen]
    for module in modules:
        module.requires_grad_(False)


def trainer(request: dict[str, Any]) -> dict[str, Any]:
    """`Trainer` at its defaults, but that it saves nothing: this project's clock does not run while it saves either."""
    from transformers import Trainer, TrainingArguments

    peer = prepared(request)
    own = {} if request["peer_lr"] is None else {"learning_rate": request["peer_lr"]}
    arguments = TrainingArguments(
        output_dir=str(Path(request["folder"]) / "trainer"),
        num_train_epochs=request["epochs"],
        seed=request["seed"],
        save_strategy="no",
        use_cpu=True,
        **own,
    )
    assert (arguments.per_device_train_batch_size, arguments.max_grad_norm) == (BATCH_SIZE, CLIP)
    assert own or arguments.learning_rate == LEARNING_RATE
    training = Trainer(model=peer.model, args=arguments, train_dataset=peer.train, data_collator=peer.collator)
    clock = time.perf_counter()
    training.train()
    train_s = time.perf_counter() - clock
    logits = training.predict(peer.test).predictions
    return _result(peer, train_s, logits.argmax(-1).tolist())


def loop(request: dict[str, Any]) -> dict[str, Any]:
    """The settings of `Trainer`, and nothing around them."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import get_linear_schedule_with_warmup

    peer = prepared(request)
    loader = DataLoader(peer.train, batch_size=BATCH_SIZE, shuffle=True, collate_fn=peer.collator)
    weights = [parameter for parameter in peer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=request["peer_lr"] or LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(loader) * request["epochs"])
    clock = time.perf_counter()
    peer.model.train()
    for _ in range(request["epochs"]):
        for batch in loader:
            peer.model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    train_s = time.perf_counter() - clock
    peer.model.eval()
    answers: list[int] = []
    with torch.inference_mode():
        for batch in DataLoader(peer.test, batch_size=64, collate_fn=peer.collator):
            answers += peer.model(**batch).logits.argmax(-1).tolist()
    return _result(peer, train_s, answers)


def _result(peer: Peer, train_s: float, answers: list[int]) -> dict[str, Any]:
    right = "".join(str(int(a == b)) for a, b in zip(answers, peer.test["labels"], strict=True))
    return {
        "train_s": train_s,
        "accuracy": right.count("1") / len(right),
        "right": right,
        "trainable": peer.trainable,
        "precision": "32-true",
        "num_train": len(peer.train),
    }
