"""Every task with every family of models that fits it: what is promised of a run holds for all of them."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import AutoModel, PretrainedConfig

from tests.tasks import contract, contract_pipelines, contract_ranks
from tests.tasks.contract_table import FAMILIES, FITTING, KINDS, OTHERS
from transfer import freezing, models, optim, parameters, predict, recording, records
from transfer.config import Freezing
from transfer.errors import UserError
from transfer.export import export, pipeline_task
from transfer.module import gather
from transfer.paths import PACKAGE
from transfer.predict import Predictor
from transfer.tasks.likelihood import IGNORED, LanguageTask
from transfer.tasks.seq2seq import SequenceToSequence
from transfer.validation import POLICIES


def name_of(pair):
    return "-".join(pair).replace(" ", "_") if isinstance(pair, tuple) else str(pair)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return contract.write(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module", params=FITTING, ids=name_of)
def built(request, folder):
    return contract.build(folder, *request.param)


@pytest.fixture(scope="module")
def trained(built):
    """Two epochs of two steps in one go."""
    return contract.fit(built, built.copy(), max_epochs=2)


@pytest.fixture(params=KINDS, ids=name_of)
def one(request, folder):
    """A kind of task with the first of its families."""
    return contract.build(folder, request.param, KINDS[request.param].families[0])


def test_every_task_and_every_family_is_in_the_table():
    models.register()
    files = (PACKAGE / "tasks").glob("*.py")
    assert {about.task.name for about in KINDS.values()} == {f.stem for f in files if "\nclass Task(" in f.read_text()}
    assert {family for about in KINDS.values() for family in about.families} == {*FAMILIES}
    own = {c.model_type for c in PretrainedConfig.__subclasses__() if c.__module__.startswith("transfer.")}
    shipped = [yaml.safe_load(file.read_text()) for file in (PACKAGE.parent / "conf" / "model").glob("*.yaml")]
    own |= {settings["config"]["model_type"] for settings in shipped if "model_type" in settings.get("config", {})}
    assert own <= {settings["model_type"] for settings in FAMILIES.values()}


@pytest.mark.parametrize("pair", OTHERS, ids=name_of)
def test_what_does_not_fit_is_refused(folder, pair):
    with pytest.raises(UserError) as caught:
        contract.build(folder, *pair)
    choices = {"model", *(f"model.config.{name}" for name in ("model_type", "cell", "bidirectional"))}
    choices.add("target.data.columns.features")  # which a linear model wants
    assert {problem.key for problem in caught.value.problems} <= choices
    assert all(problem.allowed for problem in caught.value.problems)


def test_steps_lower_the_loss(built):
    model, batch = built.copy().train(), built.batch()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.002), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = built.task.loss(model(**batch["inputs"]), batch)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0], losses


def right(built, batch, known=None):
    """What the task keeps of outputs that say what the labels say; of the rows that are not `known`, nothing."""
    task, labels = built.task, batch["labels"]
    if isinstance(task, SequenceToSequence):
        return [[token for token in row if token != IGNORED] for row in labels.tolist()]
    if task.problem_type == "spans":
        ends = [F.one_hot(labels[:, i], batch["inputs"]["input_ids"].shape[1]) * 20.0 for i in (0, 1)]
        return task.answers(None, SimpleNamespace(start_logits=ends[0], end_logits=ends[1]), batch)
    if task.problem_type in ("multi_label", "regression"):
        logits = labels[:, None] if task.problem_type == "regression" else labels * 40 - 20
    elif isinstance(task, LanguageTask):
        # What a left-to-right model says at a token is of the next one.
        predicted = labels if built.plan.task.name == "masked_lm" else labels.roll(-1, dims=1)
        logits = F.one_hot(predicted.clamp(min=0), len(built.tokenizer)) * 50.0
    else:
        logits = F.one_hot(labels.clamp(min=0), len(task.labels)) * 20.0
    if known is not None:
        logits[~torch.tensor(known)] = 0.0
    return task.answers(built.model, SimpleNamespace(logits=logits), batch)


def predicted_of(built, known=None):
    """From all rows in two batches, as a run has it."""
    numbers = range(len(built.encoded))
    answers = []
    for chosen in (numbers[1::2], numbers[::2]):
        batch = built.batch(chosen)
        sure = None if known is None else [known[i] for i in chosen]
        answers.append((batch["index"], right(built, batch, sure)))
    return built.task.predict(gather(answers, 1)[1], built.encoded, built.rows)


def test_labels_come_back_and_are_perfect(one, monkeypatch):
    monkeypatch.setattr(one.task, "testing", False)  # a dialogue does not write
    predicted, rows = predicted_of(one), one.rows
    if one.task.problem_type != "none" and not isinstance(one.task, LanguageTask):
        assert list(one.task.shown(predicted.values)) == list(one.task.shown(rows["label"][:]))
    found = one.task.score(predicted, rows, per_class=False)
    perfect = dict(one.kind.perfect)
    if isinstance(one.task, LanguageTask):
        written = one.task.predicted(rows["label"][:], rows)
        found |= one.task.score(written, rows, per_class=False) if written.terms else {}
    assert found == pytest.approx(perfect, abs=1e-5)
    assert {*one.task.metric_names} == {*perfect}


def test_what_a_language_model_predicts_is_the_text(one):
    if not isinstance(one.task, LanguageTask):
        assert not one.kind.predicted
        return
    wanted = one.rows["label" if one.task.problem_type == "text" else "text"][:]
    batch = one.batch()
    ids = torch.where(batch["labels"] == IGNORED, batch["inputs"]["input_ids"], batch["labels"])
    if one.plan.task.name == "dialogue":
        ids = batch["labels"].clamp(min=one.tokenizer.pad_token_id)
    assert one.tokenizer.batch_decode(ids, skip_special_tokens=True) == wanted
    chosen = (batch["labels"] != IGNORED).sum(1)
    # The token that begins a text is a label, but nobody predicts it.
    assert (chosen - int(one.plan.task.name == "causal_lm")).tolist() == one.kind.predicted


def test_metrics_by_hand(one, monkeypatch):
    monkeypatch.setattr(one.task, "testing", False)
    rows, about = one.rows, one.kind
    assert about.said or about.predicted
    if about.said:
        found = one.task.score(one.task.predicted(about.said, rows), rows, per_class=False)
        assert {name: found[name] for name in about.found} == pytest.approx(about.found, abs=1e-5)
    if about.predicted:
        found = one.task.score(predicted_of(one, [True] * 3 + [False] * 3), rows, per_class=False)
        total = sum(about.predicted)
        assert found["perplexity"] == pytest.approx(len(one.tokenizer) ** (sum(about.predicted[3:]) / total), rel=1e-4)
        assert found["accuracy"] == pytest.approx(sum(about.predicted[:3]) / total)


def wanted_plan(policy, model, depths):
    """The epoch from which each parameter trains, None for never; nothing at all where the policy does not fit."""
    top = max((depth for depth in depths.values() if depth is not None), default=0)
    head = {name for name, depth in depths.items() if depth is None}
    biases = {name for name in depths if name.rpartition(".")[2].startswith("bias")}
    if policy == "gradual":
        plan = {name: 0 if name in head else top + bool(head) - depth for name, depth in depths.items()}
    else:
        training = {
            "none": {*depths},
            "all": set(),
            "head_only": head or None,
            "bitfit": head | biases if biases - head else None,
            "first_k": {name for name, depth in depths.items() if depth is None or depth > 1} if top else None,
            "regex": {*depths} - {next(iter(depths))},
        }[policy]
        plan = None if training is None else {name: 0 if name in training else None for name in depths}
    return plan and plan | dict.fromkeys(parameters.idle(model))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_tensor_has_its_place_in_a_freezing_plan(built, policy):
    model, batch = built.copy().train(), built.batch()
    depths, named = parameters.depths(model), dict(model.named_parameters())
    assert depths.keys() == named.keys()
    backbone = {name for name, depth in depths.items() if depth is not None}
    if model.base_model is not model:
        inside = {id(parameter) for parameter in model.base_model.parameters()}
        assert backbone == {name for name, parameter in named.items() if id(parameter) in inside}
    elif not parameters.is_composed(model):
        assert backbone == {name for name, _ in AutoModel.from_config(model.config).named_parameters()}
    first = next(iter(depths)).replace(".", r"\.")
    settings = Freezing(policy, k=1, patterns=[first])
    wanted = wanted_plan(policy, model, depths)
    if wanted is None:
        with pytest.raises(UserError):
            freezing.make(model, settings)
        return
    plan = freezing.make(model, settings)
    assert plan == wanted
    assert policy == "all" or 0 in plan.values(), "something trains from the start"
    grouped = [p for group in optim.parameter_groups(model, built.plan.optimizer, plan) for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(id(named[name]) for name, start in plan.items() if start is not None)
    frozen = freezing.FreezingCallback(model, plan)
    frozen.prepare(distributed=False)
    for epoch in sorted({start for start in plan.values() if start is not None}):
        frozen.apply(epoch)
        model.zero_grad()
        built.task.loss(model(**batch["inputs"]), batch).backward()
        active = {name for name, start in plan.items() if start is not None and start <= epoch}
        assert {name for name, parameter in named.items() if parameter.grad is not None} == active


def test_an_exported_model_says_the_same(built, trained, folder, tmp_path, monkeypatch):
    """In memory, by `transfer predict` and in the pipeline of transformers, where there is one."""
    plan, task = built.plan, built.task
    trained.eval()
    monkeypatch.setattr(task, "testing", True)
    memory = Predictor(trained.model, built.tokenizer, task, plan.data.columns, built.data.max_length)
    values, scores = memory.predict(built.rows)
    contract.save(built, trained.model)
    record = recording.unfinished(plan, "complete", records.now()) | {"_folder": str(plan.folder)}
    export(record, tmp_path / "exported", str(plan.output_dir), onnx=False)
    file = contract.file_of(folder, str(plan.data.name))
    predict.predict(
        tmp_path / "exported", str(file), str(tmp_path / "said.jsonl"), renamed={}, read_as=None, write_as=None
    )
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    close(values, [row["prediction"] for row in said])
    if scores[0] is not None:
        close(scores, [row["score"] for row in said])
    check = contract_pipelines.CHECKS.get(str(plan.data.name))
    assert (check is None) == (plan.data.name in contract_pipelines.NONE), "a pipeline, or why there is none"
    if check is None:
        assert pipeline_task(record) is None
        return
    kind, say = check
    # A prompt has to be put between tokens that a text-generation pipeline does not add.
    assert pipeline_task(record) == (None if task.task.name == "dialogue" else kind)
    answers = say(contract_pipelines.opened(kind, tmp_path / "exported"), built, said)
    for row, (prediction, score) in zip(said, answers, strict=True):
        if prediction is not contract_pipelines.UNSAID:
            close([prediction], [row["prediction"]])
        if score is not None:
            assert score == pytest.approx(row["score"], abs=1e-4)


def close(ours, theirs):
    numbers = all(isinstance(value, float) for value in (*ours, *theirs))
    assert ours == (pytest.approx(theirs, rel=1e-4) if numbers else theirs)


def test_a_resumed_training_comes_to_the_same(built, trained, tmp_path):
    start, expected = built.model.state_dict(), trained.model.state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in expected.items())
    half = contract.fit(built, built.copy(), max_epochs=1)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    model = built.copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    contract.fit(built, model, max_epochs=2, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    found = model.state_dict()
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []


@pytest.fixture(scope="module")
def ranks(folder):
    return contract_ranks.launch(folder)


@pytest.mark.cluster
@pytest.mark.parametrize("pair", FITTING, ids=name_of)
def test_two_processes_are_one(folder, ranks, pair):
    """Five rows, then one that leaves the second process without any: the weights and metrics of one process."""
    alone = contract_ranks.train(folder, *pair, devices=1)
    first, second = (found[pair] for found in ranks)
    assert isinstance(first, tuple), first
    assert isinstance(second, tuple), second
    for name, tensor in alone[0].items():
        assert torch.equal(first[0][name], second[0][name]), name
        torch.testing.assert_close(first[0][name], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert first[1] == pytest.approx(alone[1], rel=1e-3, abs=1e-5, nan_ok=True)
    start = contract.build(folder, *pair).model.state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in alone[0].items())
