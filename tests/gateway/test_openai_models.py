"""The list of models, for OpenAI's clients and KServe's at the same addresses."""

import time

import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types import Model

from archives.own_configs import demo_configs


def test_models_are_listed_in_both_shapes(gateway_url: str) -> None:
    names = sorted(demo_configs())
    body = httpx2.get(f"{gateway_url}/v1/models").json()
    assert set(body) == {"object", "data", "models"}
    assert body["models"] == names
    with OpenAI(base_url=f"{gateway_url}/v1", api_key="none") as client:
        listed = list(client.models.list())
    assert [each.id for each in listed] == names
    for each in listed:
        Model.model_validate(each.model_dump(), strict=True)
        assert 0 <= time.time() - each.created < 3600


def test_model_is_described_in_both_shapes(gateway_url: str) -> None:
    with OpenAI(base_url=f"{gateway_url}/v1", api_key="none", max_retries=0) as client:
        found = client.models.retrieve("wav2vec2")
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("whisper-1")
    assert (found.id, found.object) == ("wav2vec2", "model")
    body = httpx2.get(f"{gateway_url}/v1/models/wav2vec2").json()
    assert (body["name"], body["ready"]) == ("wav2vec2", True)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
