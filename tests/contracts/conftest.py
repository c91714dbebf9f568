"""Fixtures of the contract tests. Ape takes a snapshot after each fixture's scope and goes back to it."""

import json
import os
from pathlib import Path

import pytest
from ape import project

from scripts._compile import ensure_compiled
from tests.support.contracts.factory import World, deploy_world


@pytest.fixture(scope="session")
def deployed() -> World:
    """The contracts, deployed once; for mutation testing, one of them from another creation code
    (tools/audit/solidity_mutation.py)."""
    path = os.environ.get("PARALLELIX_MUTANT")
    if not path:
        return deploy_world()
    ensure_compiled()
    wanted = json.loads(Path(path).read_text())
    name, code = wanted["contract"], bytes.fromhex(wanted["code"])
    contract_type = project.contracts.get(name).contract_type
    contract_type.deployment_bytecode.bytecode = "0x" + wanted["code"]
    project.manifest.contract_types[name] = contract_type
    world = deploy_world()
    if not bytes(world.contracts[name].creation_metadata.receipt.data).startswith(code):
        pytest.exit("the mutant is not deployed", returncode=pytest.ExitCode.INTERNAL_ERROR)
    return world


@pytest.fixture
def world(deployed: World) -> World:
    """A fresh view of the deployed network: no nodes, no keepers, before genesis."""
    return deployed.view()
