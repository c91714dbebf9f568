"""Takes the screenshots of docs/screenshots: every page, light and dark, desktop and phone, over the seeded network."""

import io
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import create_engine, select, update

from offchain.crypto.keys import Signer
from offchain.db.models import Node, SlotRecord
from tests.support.webapp.gateway import gateway
from tests.support.webapp.seed import SeededNetwork, app_of, seed
from tests.support.webapp.serving import serving
from tests.support.webapp.wallet import TestWallet

MAX_HEIGHT = {"desktop": 2_000, "phone": 3_600}
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SCHEMES = ("light", "dark")
ALIKE = 7
"""Colours that differ by no more than this in each channel may become one, of 255."""
COMMONEST = 64
WALLET_KEY = "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"
"""A published test key: it guards nothing."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]


def pages(net: SeededNetwork) -> dict[str, str]:
    """Path of each page by the name of its picture."""
    return {
        "network": "/",
        "operator": f"/operators/{net.owners[0]}",
        "operator-new": "/operators/0x000000000000000000000000000000000000dEaD",
        "node": "/nodes/5",
        "node-epoch": "/nodes/5/epochs/33",
        "earnings": f"/operators/{net.owners[0]}/earnings?from=32",
        "register": "/register?tier=2",
        "register-stake": "/register/stake?tier=3&stake=75000",
        "register-sign": f"/register/sign?tier=3&stake=75000&key=0x{'5a' * 32}",
        "activity": "/activity",
        "playground": "/playground",
        "account": "/account",
        "credits": f"/credits/{net.owners[0]}",
        "node-appeal": f"/nodes/{_worst(net)}/epochs/{net.epoch - 1}",
        "keys": "/keys",
    }


def _worst(net: SeededNetwork) -> int:
    """The node with the lowest uptime in the epoch whose challenge window is open."""
    engine = create_engine(net.url)
    with engine.connect() as db:
        epoch = SlotRecord.epoch == net.epoch - 1
        found = db.execute(select(SlotRecord.node_id).where(epoch).order_by(SlotRecord.uptime_bps)).first()
    engine.dispose()
    assert found is not None
    return int(found.node_id)


def take(
    browser: Browser,
    base: str,
    rpc_url: str,
    paths: dict[str, str],
    folder: Path,
    schemes: tuple[str, ...] = SCHEMES,
) -> None:
    """One picture of each page in each look."""
    for scheme, (device, size) in itertools.product(schemes, SIZES.items()):
        # a wallet that is connected already, as a returning operator's is
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            device_scale_factor=2 if device == "phone" else 1,
            reduced_motion="reduce",
        )
        wallet = TestWallet(context, "0x" + WALLET_KEY, rpc_url)
        wallet.connected = True
        context.add_init_script("localStorage.setItem('parallelix.wallet', 'test.wallet')")
        tab = context.new_page()
        sign_in(tab, base)
        for name, path in paths.items():
            tab.goto(base + path)
            tab.wait_for_load_state("load")
            if tab.locator("[data-chart]").count():
                tab.wait_for_selector(".chart canvas")
            if name == "playground":
                tab.get_by_role("button", name="Send").click()
                tab.wait_for_selector("#route dl")
            picture = tab.screenshot(full_page=True)
            with Image.open(io.BytesIO(picture)) as image:
                cut = image.convert("RGB").crop((0, 0, image.width, min(image.height, MAX_HEIGHT[device])))
                in_256_colours(cut).save(folder / f"{name}-{scheme}-{device}.png", optimize=True)
        context.close()
        wallet.close()


def in_256_colours(image: Image.Image) -> Image.Image:
    """A third of the bytes. The commonest colours stay exact, and one of few pixels that is like no other stays, too."""
    counted = sorted(image.getcolors(image.width * image.height), reverse=True)
    rest = np.array([colour for _, colour in counted], dtype=np.int16)
    chosen = list(rest[:COMMONEST])
    for colour in chosen:
        rest = rest[np.abs(rest - colour).max(axis=1) > ALIKE]
    while len(chosen) < 256 and len(rest):
        chosen.append(rest[0])
        rest = rest[np.abs(rest - rest[0]).max(axis=1) > ALIKE]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.array(chosen, dtype=np.uint8).tobytes().ljust(768, b"\0"))
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def sign_in(tab: Page, base: str) -> None:
    """Prove the wallet's address and leave one channel behind."""
    tab.goto(f"{base}/account")
    tab.get_by_role("button", name="Sign in with Ethereum").click()
    tab.wait_for_selector(".channel-form")
    if not tab.locator(".channel").count():
        tab.get_by_label("URL").fill("https://ops.example/parallelix")
        tab.get_by_role("button", name="Add").click()
        tab.wait_for_selector(".channel")


def adopt(net: SeededNetwork, address: str) -> None:
    """Give the first operator's nodes to the wallet that takes the pictures."""
    engine = create_engine(net.url)
    with engine.begin() as db:
        db.execute(update(Node).where(Node.owner == net.owners[0]).values(owner=address, beneficiary=address))
    engine.dispose()
    net.owners[0] = address


def main() -> None:
    """Seed, serve, take: `screenshots.py FOLDER [--smoke]`, the latter for two pages in one scheme."""
    folder, smoke = Path(sys.argv[1]), "--smoke" in sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        net = seed(Path(temporary))
        adopt(net, Signer.from_key(bytes.fromhex(WALLET_KEY)).address)
        key = Path(temporary) / "key"
        key.write_text("sk-playground")
        with (
            net.chain() as rpc,
            gateway() as (gateway_url, _),
            serving(app_of(net, rpc, gateway_url=gateway_url, gateway_api_key_file=key)) as base,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            paths = pages(net)
            if smoke:
                take(
                    browser,
                    base,
                    rpc,
                    {name: paths[name] for name in ("network", "playground")},
                    folder,
                    SCHEMES[:1],
                )
            else:
                take(browser, base, rpc, paths, folder)
            browser.close()


if __name__ == "__main__":
    main()
