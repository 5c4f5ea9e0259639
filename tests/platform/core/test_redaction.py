"""No secret of an address is shown, whatever letters it has; and what is no secret stays."""

from __future__ import annotations

import pytest

from sightline.platform.core.redaction import command_line, quoted_password, redact, redacted

SECRETS = ("geheim", "W0rt")


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:geheim@host:5000/x",
        "http://ann:geheim/W0rt@host:5000/x",
        "http://ann:geheim@W0rt@host",
        "http://ann:geheim@a/W0rt@host.example.org/x",
        "http://ann:geheim?W0rt#geheim@host",
        "http://ann:12/geheim@mlflow.corp",
        "https://geheimW0rt@host/x",
        "postgresql+psycopg2://ann:geheim@db/mlflow?sslpassword=W0rt",
        "s3://KEYgeheim:W0rt/geheim+x@bucket/folder",
        "https://b.s3.amazonaws.com/x?X-Amz-Credential=geheim%2F2026&X-Amz-Signature=W0rt&X-Amz-Date=2026",
        "https://a.blob.core.windows.net/c?sv=2020&sig=geheim%3D",
        "https://storage.googleapis.com/b/o?GoogleAccessId=x&Signature=geheim",
        "https://host/x?t=geheim0000W0rt0000geheim",
        "https://host/x#access_token=geheim",
        "http://ann:geheim@host,http://bob:W0rt@other",
        'http://ann:ge"geheim"@host',
    ],
)
def test_a_secret_is_not_shown(address: str) -> None:
    for text in (address, f"cannot open {address}: no", f"data.train={address}", repr(address)):
        assert not [secret for secret in SECRETS if secret in redact(text)], redact(text)
    shown = command_line(["pretrain", f"log.tracking_uri={address}"])
    assert not [secret for secret in SECRETS if secret in shown] and "***" in shown
    assert not [secret for secret in SECRETS if secret in str(redacted({"a": [address, (address,)]}))]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000/#/experiments/1",
        "s3://bucket/folder/x@sha256:0123",
        "s3://bucket/pairs?region=eu-central-1&endpoint_override=minio.example.org:9000",
        "models:/croco-encoder@candidate",
        "sqlite:////home/ann/a@b/mlflow.db",
        "file:///home/ann/a%20b",
        "hdfs://namenode:9000/user@x/folder",
        "gs://bucket/a?anonymous=true",
    ],
)
def test_what_is_no_secret_stays(address: str) -> None:
    assert redact(address) == address and quoted_password(address) == address


def test_a_header_is_no_place_for_a_secret() -> None:
    assert "geheim" not in redact("{'Authorization': 'Basic geheim=='}") + redact("authorization: Bearer geheim")


def test_a_password_with_letters_that_would_end_it_reaches_the_server_whole() -> None:
    from requests.utils import get_auth_from_url

    assert get_auth_from_url(quoted_password("http://ann:pa/ss@w?o#rd@host:5000/x")) == ("ann", "pa/ss@w?o#rd")
    assert quoted_password("http://ann:pa%2Fss@host") == "http://ann:pa%2Fss@host"


def test_the_sentence_around_an_address_stays() -> None:
    assert redact("no data at 'https://h/x?token=geheim': it is gone") == "no data at 'https://h/x?token=***': it is gone"


def test_a_part_of_an_address_and_a_named_secret_are_no_place_for_one() -> None:
    for text in (
        "Max retries exceeded with url: /api?token=geheim&x=1 (Caused by ...)",
        "403 for /b/o?X-Amz-Signature=geheim",
        'invalid dsn: host=db user=ann password=geheim dbname="x"',
        "MLFLOW_TRACKING_PASSWORD='geheim' MLFLOW_TRACKING_TOKEN=geheim",
        "{'aws_secret_access_key': 'geheim'}",
    ):
        assert "geheim" not in redact(text) and "***" in redact(text), redact(text)
    for text in ("model.class_token=true", "/x?page=2&size=3", "set MLFLOW_TRACKING_PASSWORD, or", "password=***"):
        assert redact(text) == text
