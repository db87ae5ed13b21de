"""What annotations alone name and nothing imports: classes of slow libraries, as a wrong setting is refused before they
are loaded, and what Python 3.10 does not have."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchmetrics import MetricCollection
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self
else:
    MetricCollection = PreTrainedModel = PreTrainedTokenizerBase = Self = Any

__all__ = ["MetricCollection", "PreTrainedModel", "PreTrainedTokenizerBase", "Self"]
