"""Command of the checkpointer: ``penstock serve checkpointer``."""

from __future__ import annotations

import click

from penstock.config import settings_options
from penstock_checkpointer.settings import CheckpointerSettings

__all__ = ["serve"]


@click.command("checkpointer")
@settings_options(CheckpointerSettings)
def serve(settings: CheckpointerSettings) -> None:
    """Keep checkpoints of training runs and streams of rollouts, verified and durable.

    \b
    Examples:
      penstock serve checkpointer --root checkpoints
      penstock serve checkpointer --root /data/checkpoints --host 0.0.0.0 --metrics-port 9090
      penstock serve checkpointer --root checkpoints --keep-last 3 --keep-best val_loss:1
      PENSTOCK_ROOT=/data/checkpoints penstock serve checkpointer
    """
    from contextlib import ExitStack

    from prometheus_client import REGISTRY

    from penstock.server import configure_logging
    from penstock.server import serve as serve_until_signal
    from penstock_checkpointer.metrics import StoreCollector
    from penstock_checkpointer.rollouts.metrics import RolloutCollector
    from penstock_checkpointer.rollouts.service import RolloutService
    from penstock_checkpointer.rollouts.store import RolloutStore
    from penstock_checkpointer.scrub import Scrubber
    from penstock_checkpointer.service import CheckpointService
    from penstock_checkpointer.store import Store

    configure_logging(settings.log_level, settings.log_format)
    store = Store(settings.root, settings.store_limits(), settings.shelf(), settings.retention())
    with ExitStack() as held:
        held.callback(store.close)
        rollouts = RolloutStore(settings.root, settings.rollout_limits())
        held.callback(rollouts.close)
        REGISTRY.register(StoreCollector(store, settings.root))
        REGISTRY.register(RolloutCollector(rollouts))
        if settings.scrub_interval_s:
            held.enter_context(
                Scrubber(store, settings.scrub_interval_s, settings.scrub_bytes_per_s)
            )
        checkpoint_service = CheckpointService(store)
        # Whoever waits leaves half of the threads to those who bring something.
        waiting_calls = max(1, settings.workers // 2)
        rollout_service = RolloutService(rollouts, waiting_calls, rollouts.counts)
        serve_until_signal(
            "checkpointer",
            settings,
            lambda server: [
                *checkpoint_service.register(server),
                *rollout_service.register(server),
            ],
            on_drain=rollout_service.drain,
        )
