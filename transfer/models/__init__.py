"""Small model families: `PretrainedConfig` + `PreTrainedModel` pairs, known to the Auto classes after `register()`."""

from __future__ import annotations


def register() -> None:
    """Make AutoConfig, AutoModel and AutoModelForSequenceClassification know `recurrent` and `linear`.

    Whoever opens a folder of these families calls it first, `transformers.pipeline` included. A second call changes
    nothing.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    from transfer.models.linear import LinearConfig, LinearForSequenceClassification, LinearModel
    from transfer.models.recurrent import RecurrentConfig, RecurrentForSequenceClassification, RecurrentModel

    for config, base, classifier in (
        (RecurrentConfig, RecurrentModel, RecurrentForSequenceClassification),
        (LinearConfig, LinearModel, LinearForSequenceClassification),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
