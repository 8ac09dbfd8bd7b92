"""What a machine knows of itself in a cloud, and what is wished for it: the CiliumNode's spec in the modes eni, azure, alibabacloud.

instance: `instance_of` puts both together. metadata: HTTP to the metadata service; token: its session. aws, azure, alibabacloud: what
each one's service says. cloud: what these have in common. wishes: flags and the CNI configuration; wish: their fields.
Nothing here imports aiohttp before the metadata is asked: the flags are wanted without it.
"""

from __future__ import annotations

from .instance import Instance, instance_of
from .wishes import add_arguments, texts_of, wishes_in, wishes_of

__all__ = ["Instance", "add_arguments", "instance_of", "texts_of", "wishes_in", "wishes_of"]
