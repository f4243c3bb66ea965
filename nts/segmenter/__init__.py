"""SAM2: image embeddings, prompts and masks."""

from .model import Decoded, ImageEmbedding, ProposalConfig, Proposals, Segmenter, SegmenterInfo, point_grid

__all__ = ["Decoded", "ImageEmbedding", "ProposalConfig", "Proposals", "Segmenter", "SegmenterInfo", "point_grid"]
