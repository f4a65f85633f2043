"""What a generation took."""

from dataclasses import dataclass


@dataclass
class Stats:
    """What one generation took; `graph_share` is the part of decode launches made by replay."""

    images: int = 0
    image_seconds: float = 0.0  # of tower and projector; the prefill's are prompt_seconds
    prompt_tokens: int = 0  # those of images included
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    decode_steps: int = 0  # the first token comes from the prefill
    generated_seconds: float = 0.0  # of waiting for the ids, not of what is done with them
    launches: int = 0
    graph_launches: int = 0

    @property
    def graph_share(self) -> float:
        return self.graph_launches / self.launches if self.launches else 0.0
