"""What the settings of a node say that it serves."""

from offchain.domain.tiers import Tier
from offchain.domain.types import Wei
from offchain.errors import UserError
from offchain.node.manifest import Manifest, ServedModel, model_revision
from offchain.settings import NodeSettings


def served_models(settings: NodeSettings) -> tuple[ServedModel, ...]:
    """What the settings say is served. Hashes the weights unless their hash is cached. Raises UserError."""
    found = []
    for model in settings.all_models():
        revision = model.revision
        if revision is None:
            if model.path is None:
                raise UserError(
                    f"model {model.name} names no folder: set model_path, or engine_url together with model_revision"
                )
            revision = model_revision(model.path, settings.data_dir / "revisions.json")
        found.append(ServedModel(model.name, revision, model.max_model_len))
    if len({model.name for model in found}) < len(found):
        raise UserError("two models have the same name; give each its own")
    return tuple(found)


def manifest_of(settings: NodeSettings) -> Manifest:
    """The capability manifest of these settings. Raises UserError."""
    return Manifest(
        models=served_models(settings),
        tier=Tier(settings.tier),
        slots=settings.slots,
        region=settings.region,
        price_per_token_wei=Wei(settings.price_per_token_wei),
        backend=settings.backend,
    )
