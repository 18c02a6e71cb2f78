"""What the API says about itself is true, and nothing made from it breaks the server."""

from __future__ import annotations

import httpx
import pytest

from http_questions import question


def test_every_address_is_described_with_its_refusals(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/volumes",
        "/v1/volumes/{volume_id}",
        "/v1/volumes/{volume_id}/image",
        "/v1/volumes/{volume_id}/report",
        "/v1/volumes/{volume_id}/report/store",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/settings",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    for path, methods in described["paths"].items():
        for method in methods.values():
            assert method["summary"], path
            assert method["description"], path
            if path.startswith(("/v1/volumes", "/v1/chat")):
                assert {"400", "404", "413", "429"} <= set(method["responses"]), path
    assert "research use only" in described["info"]["description"]
    form = described["paths"]["/v1/volumes"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["format"] == "binary"
    chat = described["components"]["schemas"]["ChatRequest"]
    assert chat["examples"][0]["messages"]


def test_answers_have_the_shape_that_is_described(client, volume):
    import jsonschema

    described = client.get("/openapi.json").json()
    answer = client.post("/v1/chat/completions", json=question(volume["id"])).json()
    for found, name in ((answer, "CompletionShape"), (volume, "VolumeShape")):
        jsonschema.validate(found, {"$ref": f"#/components/schemas/{name}", "components": described["components"]})
    wrong = {**answer, "choices": [{}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            wrong, {"$ref": "#/components/schemas/CompletionShape", "components": described["components"]}
        )


@pytest.mark.slow
def test_requests_made_from_the_description_never_cause_a_server_error(listen_with, phantom_file):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    statuses: dict[int, int] = {}
    with listen_with() as (address, _):
        volume = httpx.post(f"{address}/v1/volumes", files={"file": ("s.nii.gz", phantom_file.read_bytes())}).json()
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()

            @given(case=operation.as_strategy(), knows_volume=st.booleans())
            @settings(
                max_examples=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
                derandomize=True,
                database=None,
            )
            def try_it(case, knows_volume):
                if knows_volume and case.method != "DELETE" and "volume_id" in case.path_parameters:
                    case.path_parameters["volume_id"] = volume["id"]
                response = case.call()
                statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                assert response.status_code < 500, (case.method, case.path, response.text[:300])

            try_it()
        assert httpx.get(f"{address}/healthz").status_code == 200
    assert sum(statuses.values()) > 200
    assert {200, 400, 404} <= set(statuses)
