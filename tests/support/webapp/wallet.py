"""An injected EIP-1193/6963 wallet whose keys and chain are anvil's, with a person's decisions as attributes."""

import json
from typing import Any

import httpx
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from playwright.sync_api import BrowserContext

SCRIPT = """
(() => {
  const listeners = {};
  const provider = {
    request: async ({ method, params }) => {
      const answer = JSON.parse(await window.testWallet(JSON.stringify({ method, params: params ?? [] })));
      if (!answer.error) return answer.result;
      const error = new Error(answer.error.message);
      Object.assign(error, answer.error);
      throw error;
    },
    on: (name, listener) => (listeners[name] ??= []).push(listener),
    removeListener: () => {},
  };
  window.emitFromWallet = (name, value) => (listeners[name] ?? []).forEach((listener) => listener(value));
  const icon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E";
  const info = { uuid: "7d2f0f3e-0000-4000-8000-000000000001", name: "Test Wallet", icon, rdns: "test.wallet" };
  const announce = () =>
    dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider }) }));
  addEventListener("eip6963:requestProvider", announce);
  announce();
})();
"""


class TestWallet:
    """A wallet in a browser context.

    Attributes:
        chain_id: the chain that it says it is on.
        rejects: methods that its person refuses.
        lacks: methods that it does not know.
        asked: methods that pages called, in order.
        sent: hashes of what it sent.
    """

    __test__ = False

    def __init__(self, context: BrowserContext, key: str, rpc_url: str, chain_id: int = 31337) -> None:
        self.account = Account.from_key(key)
        self.chain_id = chain_id
        self.home_chain = chain_id
        self.connected = False
        self.rejects: set[str] = set()
        self.lacks: set[str] = set()
        self.asked: list[str] = []
        self.sent: list[str] = []
        self.signed: list[Any] = []
        self._http = httpx.Client(base_url=rpc_url, timeout=20, trust_env=False)
        context.expose_binding("testWallet", lambda _, text: json.dumps(self.answer(json.loads(text))))
        context.add_init_script(SCRIPT)

    @property
    def address(self) -> str:
        """Address of the wallet's account, EIP-55."""
        return str(self.account.address)

    def close(self) -> None:
        """Drop the connection to the chain."""
        self._http.close()

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of a page, as EIP-1193 says."""
        method, params = call["method"], call["params"]
        self.asked.append(method)
        if method in self.lacks:
            return {"error": {"code": 4200, "message": f"{method} is not supported"}}
        if method in self.rejects:
            return {"error": {"code": 4001, "message": "User rejected the request."}}
        match method:
            case "eth_requestAccounts":
                self.connected = True
                return {"result": [self.address]}
            case "eth_accounts":
                return {"result": [self.address] if self.connected else []}
            case "eth_chainId":
                return {"result": hex(self.chain_id)}
            case "wallet_switchEthereumChain":
                self.chain_id = int(params[0]["chainId"], 16)
                return {"result": None}
            case "eth_signTypedData_v4":
                message = encode_typed_data(full_message=json.loads(params[1]))
                self.signed.append(json.loads(params[1]))
                return {
                    "result": "0x" + self.account.sign_message(message).signature.hex().removeprefix("0x")
                }
            case "personal_sign":
                text = bytes.fromhex(params[0][2:]).decode()
                self.signed.append(text)
                signed = self.account.sign_message(encode_defunct(text=text))
                return {"result": "0x" + signed.signature.hex().removeprefix("0x")}
        return self._forward(method, params)

    def _forward(self, method: str, params: list[Any]) -> dict[str, Any]:
        if self.chain_id != self.home_chain:
            return {"error": {"code": -32603, "message": "this wallet is on another chain"}}
        answer = self._http.post(
            "/", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        ).json()
        if method == "eth_sendTransaction" and "result" in answer:
            self.sent.append(answer["result"])
        return {key: answer[key] for key in ("result", "error") if key in answer}
