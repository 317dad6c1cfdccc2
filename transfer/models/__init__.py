"""Small model families: `PretrainedConfig` + `PreTrainedModel` pairs, known to the Auto classes after `register()`."""

from __future__ import annotations


def register() -> None:
    """Make AutoConfig, AutoModel and AutoModelFor<Task> know our own families, each with the tasks it can do.

    Whoever opens a folder of these families calls it first, `transformers.pipeline` included. A second call changes
    nothing.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageClassification,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    from transfer.models.cnn import CNNConfig, CNNForImageClassification, CNNModel
    from transfer.models.image_processors import GreyImageProcessor
    from transfer.models.linear import LinearConfig, LinearForSequenceClassification, LinearModel
    from transfer.models.recurrent import (
        RecurrentConfig,
        RecurrentForSequenceClassification,
        RecurrentForTokenClassification,
        RecurrentModel,
    )
    from transfer.models.recurrent_lm import RecurrentForCausalLM
    from transfer.models.recurrent_reading import RecurrentForMultipleChoice, RecurrentForQuestionAnswering
    from transfer.models.recurrent_seq2seq import RecurrentForSeq2SeqLM
    from transfer.models.vgg import VGGConfig, VGGForImageClassification, VGGModel

    for config, base, classifier in (
        (RecurrentConfig, RecurrentModel, RecurrentForSequenceClassification),
        (LinearConfig, LinearModel, LinearForSequenceClassification),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
    AutoModelForTokenClassification.register(RecurrentConfig, RecurrentForTokenClassification, exist_ok=True)
    AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)
    AutoModelForSeq2SeqLM.register(RecurrentConfig, RecurrentForSeq2SeqLM, exist_ok=True)
    AutoModelForQuestionAnswering.register(RecurrentConfig, RecurrentForQuestionAnswering, exist_ok=True)
    AutoModelForMultipleChoice.register(RecurrentConfig, RecurrentForMultipleChoice, exist_ok=True)
    for seeing, backbone, whole in (
        (CNNConfig, CNNModel, CNNForImageClassification),
        (VGGConfig, VGGModel, VGGForImageClassification),
    ):
        AutoConfig.register(seeing.model_type, seeing, exist_ok=True)
        AutoModel.register(seeing, backbone, exist_ok=True)
        AutoModelForImageClassification.register(seeing, whole, exist_ok=True)
        AutoImageProcessor.register(seeing, image_processor_classes={"pil": GreyImageProcessor}, exist_ok=True)
