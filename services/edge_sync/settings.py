"""EdgeSyncSettings of edge_sync, from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class EdgeSyncSettings(ServiceSettings):
    """EdgeSyncSettings that only edge_sync reads."""

    edge_sync_dsn: SecretStr = Field(
        description="its database: postgresql://user:password@host/database"
    )
    edge_sync_signing_key_file: Path = Field(
        description="the key that it signs bundles and checkpoints with"
    )
    edge_sync_repair_seconds: float = Field(
        180, gt=0, description="between two comparisons of bucket and config"
    )
    edge_sync_checkpoint_seconds: float = Field(1, gt=0, description="between two checkpoints")
    edge_sync_live_seconds: float = Field(
        5, gt=0, description="a node without a status for longer is silent"
    )
    edge_sync_lagging_seconds: float = Field(
        60,
        gt=0,
        description=(
            "a revision that not every live node has proven for so long is reported as lagging"
        ),
    )
    edge_sync_sealing_seconds: float = Field(
        10, gt=0, description="how long a new epoch waits for its nodes"
    )
    edge_sync_digest_seconds: float = Field(
        2,
        gt=0,
        description=(
            "how long after a put a node's digest alone counts as proof, its proof being lost"
        ),
    )
    edge_sync_seen_seconds: float = Field(
        10, gt=0, description="between two writes of when nodes were seen"
    )
