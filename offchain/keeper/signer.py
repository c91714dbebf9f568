"""The keeper's key: in an encrypted keystore, or held by a Web3Signer service."""

from offchain.chain.keys import Signer, TransactionSigner
from offchain.chain.web3signer import Web3Signer
from offchain.settings import KeeperSettings


def load_signer(settings: KeeperSettings) -> TransactionSigner:
    """The key that the settings name.

    Raises:
        UserError: the keystore does not open, or the service does not have the key or does not answer.
    """
    if settings.web3signer_url is not None and settings.web3signer_address is not None:
        return Web3Signer.connect(settings.web3signer_url, settings.web3signer_address)
    if settings.keystore is None or settings.password_file is None:
        raise AssertionError("the settings' own check lets no keeper through without a key")
    return Signer.load(settings.keystore, settings.password_file)
