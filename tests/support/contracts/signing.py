"""What payers, signers and token holders sign, made by hand from the type strings, as a wallet would."""

from typing import Any

from ape import chain
from eth_abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data

from offchain.domain.eip712 import SigningDomain, keccak256, word
from tests.support.contracts.factory import World, compact, key_of, now, sign

SIGNER = key_of(500)


def permit_signature(
    world: World, key: Any, spender: str, value: int, deadline: int
) -> tuple[int, bytes, bytes]:
    """v, r, s of an ERC-2612 permit."""
    message = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Permit": [
                {"name": "owner", "type": "address"},
                {"name": "spender", "type": "address"},
                {"name": "value", "type": "uint256"},
                {"name": "nonce", "type": "uint256"},
                {"name": "deadline", "type": "uint256"},
            ],
        },
        "primaryType": "Permit",
        "domain": {
            "name": "ParalleliX",
            "version": "1",
            "chainId": chain.chain_id,
            "verifyingContract": str(world.token.address),
        },
        "message": {
            "owner": key.address,
            "spender": spender,
            "value": value,
            "nonce": world.token.nonces(key.address),
            "deadline": deadline,
        },
    }
    signed = Account.sign_message(encode_typed_data(full_message=message), key.key)
    return signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def proof(world: World, payer: str, key: Any, deadline: int) -> bytes:
    """The signer's consent to be bound to a payer."""
    typehash = keccak256(b"SignerAuthorization(address payer,address signer,uint64 deadline)")
    struct_hash = keccak256(
        typehash + encode(["address", "address", "uint64"], [payer, key.address, deadline])
    )
    return sign(key, SigningDomain(chain.chain_id, str(world.vault.address)).digest(struct_hash))


def voucher(world: World, payer: Any, node_id: int, cumulative: int, key: Any = SIGNER) -> tuple[Any, ...]:
    """A signed voucher, as `redeem` takes it."""
    typehash = keccak256(b"Voucher(address payer,uint32 nodeId,uint256 cumulativeWei)")
    struct_hash = keccak256(
        typehash + encode(["address"], [payer.address]) + word(node_id) + word(cumulative)
    )
    domain = SigningDomain(chain.chain_id, str(world.collector.address))
    return (payer.address, node_id, cumulative), *compact(sign(key, domain.digest(struct_hash)))


def authorize(world: World, payer: Any, key: Any, cap: int) -> Any:
    """Bind a signer to a payer."""
    deadline = now() + 100
    return world.vault.authorizeSigner(
        key.address, cap, deadline, proof(world, payer.address, key, deadline), sender=payer
    )
