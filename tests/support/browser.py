"""A Chromium of one's own: what it shows, what it asks for, and what it complains about."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from support.common import EXAMPLES

RECORDING = EXAMPLES / "turn_on_the_kitchen_lights.wav"
# The microphone is silent before and after, so that neither start nor stop cuts a word.
SILENCE_S = 2.0
# Headless, without a connection to its maker, with a microphone that plays a file.
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
WAIT_S, ASK_EVERY_S = 60.0, 0.05
MOST_TYPED = 200
DESKTOP, PHONE = (1280, 900), (390, 844)
Found = TypeVar("Found")


class Browser:
    """Chromium, driven; `address` is that of the page that is under test."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads
        self.address = ""
        self._command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def _command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def open(self, address: str) -> None:
        """Open a page anew."""
        self.show(DESKTOP, "light")
        self.driver.get("about:blank")
        self.read_log("browser")
        self.read_log("performance")
        self.address = address
        self.permit_microphone(True)
        self.driver.get(address)

    def show(self, size: tuple[int, int], scheme: str) -> None:
        """Change the size and the colour scheme; nothing moves."""
        width, height = size
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE,
        )  # fmt: skip
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self._command("Emulation.setEmulatedMedia", features=features)

    def read_log(self, name: str) -> list[dict[str, Any]]:
        """Return what was logged since this was asked last."""
        return list(self.driver.get_log(name))

    def complaints(self) -> list[str]:
        """Return errors of scripts and of the policy; answers that say no are none."""
        return [
            entry["message"]
            for entry in self.read_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and entry["source"] != "network"
        ]

    def events(self) -> list[dict[str, Any]]:
        """Return what the browser did on the network since this was asked last."""
        messages = (json.loads(entry["message"]) for entry in self.read_log("performance"))
        return [each["message"] for each in messages]

    def permit_microphone(self, permitted: bool) -> None:
        """Permit or deny the microphone to the page."""
        self._command(
            "Browser.setPermission",
            permission={"name": "microphone"},
            setting="granted" if permitted else "denied",
            origin=self.address.rstrip("/"),
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script gives."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """Return the first element, once there is one."""
        return self.wait(lambda: self.find_all(selector))[0]

    def find_all(self, selector: str) -> list[WebElement]:
        """Return the elements there are."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Return the text of an element as it stands in the document, white space aside."""
        return " ".join(str(self.find(selector).get_property("textContent")).split())

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element."""
        return [str(each.get_property("textContent")) for each in self.find_all(selector)]

    def click(self, selector: str) -> None:
        """Click an element that is in view."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, selector: str, text: str) -> None:
        """Replace what stands in a field."""
        element = self.find(selector)
        self.run("arguments[0].value = ''", element)
        # The driver cannot type characters beyond 16 bits.
        if max(map(ord, text)) < 0x10000 and len(text) < MOST_TYPED:
            element.send_keys(text)
        else:
            self.run("arguments[0].value = arguments[1]", element, text)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, found: Callable[[], Found], timeout_s: float = WAIT_S) -> Found:
        """Return the first true result of a function."""
        deadline_s = time.monotonic() + timeout_s
        while not (result := found()):
            assert time.monotonic() < deadline_s, "waited for too long"
            time.sleep(ASK_EVERY_S)
        return result

    def wait_for_text(self, selector: str) -> str:
        """Return the text of an element once it has one."""
        return self.wait(lambda: self.text(selector))

    def download(self, name: str) -> bytes:
        """Return a file that was saved, once it is whole."""
        path = self.downloads / name
        self.wait(path.exists)
        return path.read_bytes()

    def take_picture(self, path: Path) -> None:
        """Save the whole page as a picture."""
        self.run("scrollTo(0, 0)")
        taken = self._command("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(taken["data"]))


def hosts_of(events: list[dict[str, Any]]) -> set[str]:
    """Return the hosts that anything was asked of."""
    asked = [
        each["params"]["request"]["url"]
        for each in events
        if each["method"] == "Network.requestWillBeSent"
    ]
    asked += [
        each["params"]["url"] for each in events if each["method"] == "Network.webSocketCreated"
    ]
    return {urlsplit(url).netloc for url in asked} - {""}


class Visit:
    """Opens pages, and looks afterwards at what the browser complained about and asked for."""

    def __init__(self, browser: Browser, exits: ExitStack) -> None:
        self._browser = browser
        self._exits = exits

    def __call__(self, url: str) -> Browser:
        """Open the page of a gateway, and return once it has its models."""
        self._browser.open(f"{url}/")
        self._browser.wait(lambda: "ready" in self._browser.text("#server-state"))
        self._exits.callback(self._check, url)
        return self._browser

    def _check(self, url: str) -> None:
        complaints = self._browser.complaints()
        assert not complaints, complaints
        assert hosts_of(self._browser.events()) <= {url.removeprefix("http://")}


@contextmanager
def run_browser(folder: Path, microphone: Path) -> Iterator[Browser]:
    """Run a Chromium whose microphone hears a recording once, whenever it is opened."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.fail(
            "expected chromium and chromedriver on the PATH; on Debian, "
            "scripts/install_chromium.sh installs them as root"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for each in OPTIONS:
        options.add_argument(each)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.add_argument(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(str(programs[1])))
    try:
        downloads = folder / "downloads"
        downloads.mkdir()
        yield Browser(driver, downloads)
    finally:
        driver.quit()
