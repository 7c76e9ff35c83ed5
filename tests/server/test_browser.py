"""Both pages in a real browser, without the internet; with SPARSERT_SCREENSHOT=PATH the README's picture is taken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from questions import ANSWER, CONTEXT, QUESTION
from running_server import RunningServer

pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1100,760",
        f"--user-data-dir={tmp_path / 'profile'}",
        # Whatever is not this machine does not resolve.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=driver)
    instance = webdriver.Chrome(options=options, service=service)
    instance.set_page_load_timeout(60)
    yield instance
    instance.quit()


def test_pages_answer_in_a_browser(server: RunningServer, browser: Any) -> None:
    wait = WebDriverWait(browser, 60)

    browser.get(server.url + "/")
    context = wait.until(lambda page: page.find_elements(By.NAME, "context"))[0]
    context.clear()
    context.send_keys("A \u00e9t\u00e9: " + CONTEXT)
    question = browser.find_element(By.NAME, "question")
    question.clear()
    question.send_keys(QUESTION["question"])
    wait.until(lambda page: page.find_element(By.ID, "endpoint").get_attribute("value"))
    browser.find_element(By.ID, "ask").click()
    marked = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#highlighted mark"))[0]
    assert marked.text == ANSWER["answer"]
    assert browser.find_element(By.ID, "highlighted").text.startswith("A \u00e9t\u00e9: DeepSparse is sparsity")
    assert browser.find_element(By.ID, "status").text.endswith(" ms")
    if path := os.environ.get("SPARSERT_SCREENSHOT"):
        browser.refresh()
        wait.until(lambda page: page.find_element(By.ID, "endpoint").get_attribute("value"))
        browser.find_element(By.ID, "ask").click()
        wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#highlighted mark"))
        browser.save_screenshot(path)

    browser.get(server.url + "/docs")
    operation = wait.until(lambda page: page.find_elements(By.ID, "operations-question_answering-post_predict"))
    opened = operation[0] if operation else None
    assert opened is not None
    opened.find_element(By.CSS_SELECTOR, ".opblock-summary-control").click()
    wait.until(lambda page: opened.find_elements(By.CSS_SELECTOR, ".try-out__btn"))[0].click()
    wait.until(lambda page: opened.find_elements(By.CSS_SELECTOR, ".execute"))[0].click()
    answered = wait.until(
        lambda page: opened.find_elements(By.CSS_SELECTOR, ".live-responses-table .response .microlight")
    )
    wait.until(lambda page: ANSWER["answer"] in opened.text)
    assert answered
    problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems


class Page:
    """The page, as somebody sees it who chooses an endpoint, fills in its fields and asks."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.wait = browser, WebDriverWait(browser, 60)
        browser.get(url + "/")

    def choose(self, endpoint: str) -> None:
        """Choose an endpoint, whose fields then have its example."""
        path = f"/v2/models/{endpoint}/infer"
        self.wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, f'option[value="{path}"]'))
        Select(self.browser.find_element(By.ID, "endpoint")).select_by_value(path)

    def fill(self, name: str, *texts: str) -> None:
        """Write texts into a field, a line each."""
        field = self.browser.find_element(By.NAME, name)
        # chromedriver types no characters beyond U+FFFF
        self.browser.execute_script("arguments[0].value = arguments[1]", field, "\n".join(texts))

    def ask(self) -> str:
        """Send the request, and return what is said about it."""
        self.browser.find_element(By.ID, "ask").click()
        self.wait.until(lambda page: page.find_element(By.ID, "ask").is_enabled())
        return str(self.browser.find_element(By.ID, "status").text)

    def shown(self, selector: str) -> list[str]:
        """The texts of what is shown of the answer."""
        return [item.text for item in self.browser.find_elements(By.CSS_SELECTOR, f"#highlighted {selector}")]


def test_each_text_task_has_a_view(texts_server: RunningServer, browser: Any) -> None:
    page = Page(browser, texts_server.url)
    url = f"{texts_server.url}/v2/models"

    page.choose("embedder")
    page.fill("inputs", "Ada keeps bees.", "Ada keeps bees.", "\u00e9t\u00e9")
    assert page.ask().endswith(" ms")
    if path := os.environ.get("SPARSERT_SCREENSHOT"):
        browser.save_screenshot(path.replace(".png", "-vectors.png"))
    assert page.shown("tr th:first-child") == ["", "1 Ada keeps bees.", "2 Ada keeps bees.", "3 \u00e9t\u00e9"]
    two = {"inputs": ["Ada keeps bees.", "\u00e9t\u00e9"]}
    first, last = np.array(requests.post(f"{url}/embedder/infer", json=two).json()["embeddings"])
    cosine = f"{first @ last:.2f}"
    assert page.shown("td") == ["1.00", "1.00", cosine, "1.00", "1.00", cosine, cosine, cosine, "1.00"]
    assert page.shown("p") == ["3 vectors of 24 numbers; their cosines:"]
    page.fill("inputs", "12")  # a text, though it looks like a number
    assert page.ask().endswith(" ms") and page.shown("td") == ["1.00"]

    page.choose("ranker")
    assert page.ask().endswith(" ms")  # the example
    example = {"query": "Who keeps bees?", "documents": ["Bob repairs old radios.", "Ada keeps bees in Turin."]}
    ranked = requests.post(f"{url}/ranker/infer", json=example).json()["results"]
    assert page.shown(".bar span") == [example["documents"][item["index"]] for item in ranked]
    assert page.shown(".bar output") == [f"{item['score']:.3f}" for item in ranked]

    page.choose("classifier")
    page.fill("sequences", "a b", "c")
    assert page.ask().endswith(" ms")
    found = requests.post(f"{url}/classifier/infer", json={"sequences": ["a b", "c"]}).json()
    assert page.shown("section p") == ["a b", "c"] and page.shown(".bar span") == found["labels"]
    assert page.shown(".bar output") == [f"{score:.3f}" for score in found["scores"]]

    page.choose("zero-shot")
    page.fill("labels", "nature", "sport")
    assert page.ask().endswith(" ms")
    assert page.shown("section p") == ["Ada keeps bees in Turin."]
    assert sorted(page.shown(".bar span")) == ["nature", "sport"]

    page.choose("tagger")
    text = "\U0001f41d Ada abc was born in bead"
    page.fill("inputs", text)
    assert page.ask().endswith(" ms")
    (entities,) = requests.post(f"{url}/tagger/infer", json={"inputs": text}).json()["predictions"]
    assert entities and page.shown("mark small") == [item["entity"] for item in entities]
    assert page.shown("mark") == [f"{text[item['start'] : item['end']]}{item['entity']}" for item in entities]

    page.choose("ranker")
    page.fill("documents", "[]")
    assert page.ask().startswith("422: ") and not page.shown(".bar")
    problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("422" in entry["message"] for entry in problems)


MARKER = '''
from pydantic import BaseModel, ConfigDict

from sparsert import Pipeline

TASK = "marker"


class Note(BaseModel):
    note: str | None


class Digits(BaseModel):
    """Says no score."""

    model_config = ConfigDict(json_schema_extra={"x-span-of": "note"})
    start: int
    end: int


@Pipeline.register(TASK, default_model_path="default")
class Marker(Pipeline):
    input_schema = Note
    output_schema = Digits

    def preprocess(self, inputs):
        return [item.note for item in inputs]

    def forward(self, prepared):
        return prepared

    def postprocess(self, prepared, outputs):
        return [Digits(start=0, end=len(note)) for note in outputs]
'''


def test_the_page_takes_what_a_task_may_do(
    start_server: Callable[..., RunningServer], browser: Any, tmp_path: Path
) -> None:
    """A route like one of the protocol's, a text that looks like a number or may be null, an answer without a score."""
    (tmp_path / "marker.py").write_text(MARKER)
    (tmp_path / "config.yaml").write_text("endpoints:\n- task: import:marker.py\n  route: /tools/infer\n")
    served = start_server("--config-file", "config.yaml")
    wait = WebDriverWait(browser, 60)
    browser.get(served.url + "/")
    field = wait.until(lambda page: page.find_elements(By.NAME, "note"))[0]
    assert browser.find_element(By.ID, "endpoint").get_attribute("value") == "/v2/models/marker-0/infer"
    field.send_keys("12" + Keys.ENTER)
    wait.until(lambda page: page.find_element(By.ID, "status").text.endswith(" ms"))
    assert "score" not in browser.find_element(By.ID, "status").text
    assert browser.find_element(By.CSS_SELECTOR, "#highlighted mark").text == "12"
    assert field.get_attribute("value") == "12"


def test_a_field_named_as_those_of_another_task(
    start_server: Callable[..., RunningServer], browser: Any, tmp_path: Path
) -> None:
    task = MARKER.replace("start: int", "labels: list[str]").replace("end: int", "")
    task = task.replace("x-span-of", "x-none").replace("start=0, end=len(note)", "labels=[note]")
    (tmp_path / "marker.py").write_text(task)
    (tmp_path / "config.yaml").write_text("endpoints:\n- task: import:marker.py\n")
    browser.get(start_server("--config-file", "config.yaml").url + "/")
    wait = WebDriverWait(browser, 60)
    wait.until(lambda page: page.find_elements(By.NAME, "note"))[0].send_keys("bees" + Keys.ENTER)
    wait.until(lambda page: page.find_element(By.ID, "status").text.endswith(" ms"))
    assert json.loads(browser.find_element(By.ID, "highlighted").text) == {"labels": ["bees"]}
