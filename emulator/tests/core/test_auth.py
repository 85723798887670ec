from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from localazure.core.auth import Tokens
from localazure.core.errors import Unauthorized
from localazure.settings import Settings


def test_a_token_is_good_for_its_audience_only(tokens: Tokens) -> None:
    token = tokens.issue("me", "https://database.windows.net/", scp="x")
    identity = tokens.verify(token, "sql")
    assert (identity.subject, identity.claims["scp"]) == ("me", "x")
    for group in tokens.groups() - {"sql"}:
        with pytest.raises(Unauthorized) as caught:
            tokens.verify(token, group)
        assert caught.value.code == "InvalidAuthenticationTokenAudience"


def test_an_expired_token_is_refused(tokens: Tokens) -> None:
    with pytest.raises(Unauthorized) as caught:
        tokens.verify(tokens.issue("me", "https://storage.azure.com", lifetime_seconds=-60), "storage")
    assert caught.value.code == "ExpiredAuthenticationToken"


def _claims(tokens: Tokens, token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_forgeries_are_refused(tokens: Tokens) -> None:
    good = tokens.issue("me", "https://management.azure.com")
    claims = _claims(tokens, good)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = tokens.jwks()["keys"][0]["n"]
    forged = [
        jwt.encode(claims, stranger, algorithm="RS256"),
        jwt.encode(claims, None, algorithm="none"),
        # The classic: the public key as the secret of a symmetric signature.
        jwt.encode(claims, public, algorithm="HS256"),
        good[:-4] + "AAAA",
        tokens.issue("me", "https://management.azure.com", iss="https://sts.windows.net/other/"),
        "",
        "a.b",
    ]
    for token in forged:
        with pytest.raises(Unauthorized):
            tokens.verify(token, "arm")


def test_the_published_key_verifies(tokens: Tokens, certified: Settings) -> None:
    token = tokens.issue("me", certified.api_url)
    published = jwt.PyJWKSet.from_dict(tokens.jwks())
    key = published[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, key, audience=certified.api_url, algorithms=["RS256"])["sub"] == "me"


def test_processes_that_start_together_share_one_private_key(settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda _: str(Tokens(settings).jwks()), range(4)))
    assert len(set(keys)) == 1
    files = list((settings.home / "keys").iterdir())
    assert [path.name for path in files] == ["tokens.pem"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert isinstance(files[0], Path)
