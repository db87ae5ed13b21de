"""An input embedding as the product of two thin matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilingua.errors import UserError


class FactorisedEmbedding(nn.Module):
    """Looks pieces up in a narrow table and widens what it finds: V×d ≈ (V×r)(r×d) (ALBERT, Lan et al. 2020).

    Args:
        pieces: V, rows of the table.
        rank: r, its width.
        width: d, of the model.
        padding_idx: the piece whose row is never trained.
    """

    def __init__(self, pieces: int, rank: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.narrow = nn.Embedding(pieces, rank, padding_idx=padding_idx)
        self.widen = nn.Linear(rank, width, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.widen(self.narrow(input_ids))

    @property
    def product(self) -> Tensor:
        """The embedding they stand for, (pieces, width)."""
        return (self.narrow.weight @ self.widen.weight.T).detach()


def factorise(model: PreTrainedModel, rank: int) -> None:
    """Replaces the input embedding by its best approximation of this rank, a truncated SVD (Eckart & Young 1936).

    Raises:
        UserError: a rank that saves nothing or is no rank, an embedding that is shared with the output or not plain.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is not nn.Embedding:
        raise UserError(
            f"student.embedding_rank={rank}: the embedding of {type(model).__name__} is a {type(embedding).__name__}, "
            f"expected a plain Embedding. Set student.embedding_rank=null."
        )
    if head is not None and head.weight is embedding.weight:
        raise UserError(
            f"student.embedding_rank={rank}: {type(model).__name__} uses the same weights for its output, which need "
            f"all of them. Set student.embedding_rank=null."
        )
    check_rank(rank, *embedding.weight.shape)
    table = embedding.weight.detach().double()
    _, vectors = torch.linalg.eigh(table.T @ table)  # right singular vectors, from a matrix as small as the width
    basis = vectors.flip(1)[:, :rank]  # they come in ascending order
    thin = FactorisedEmbedding(len(table), rank, table.shape[1], embedding.padding_idx)
    with torch.no_grad():
        thin.narrow.weight.copy_(table @ basis)
        thin.widen.weight.copy_(basis)
    model.set_input_embeddings(thin.to(embedding.weight))
    model.config.embedding_rank = rank


def unfactorise(model: PreTrainedModel) -> PreTrainedModel:
    """Multiplies the factors back, in place: a plain transformers model that gives the same answers."""
    thin = model.get_input_embeddings()
    if isinstance(thin, FactorisedEmbedding):
        model.set_input_embeddings(
            nn.Embedding.from_pretrained(thin.product, freeze=False, padding_idx=thin.narrow.padding_idx)
        )
        del model.config.embedding_rank
    return model


def check_rank(rank: int, pieces: int, width: int) -> None:
    """Raises UserError for a rank beyond the embedding's."""
    if not 1 <= rank <= min(pieces, width):
        raise UserError(
            f"student.embedding_rank={rank} is outside 1 … {min(pieces, width)}: the embedding has {pieces} pieces of "
            f"width {width}. Try {max(min(pieces, width) // 4, 1)}, or null to leave it whole."
        )
