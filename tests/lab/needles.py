# SPDX-License-Identifier: MIT
"""Secrets, in every form in which somebody could have written them down, and the search for them."""
import base64
import pathlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import proofs


def forms(raw):
    """Bytes as they are, in hex, in base64 and base64url."""
    plain = base64.b64encode(raw).rstrip(b"=")
    return {raw, raw.hex().encode(), raw.hex().upper().encode(), plain, plain.translate(bytes.maketrans(b"+/", b"-_"))}


def of_key(pem):
    """A private key's: the number alone, and every whole line of the PEM text."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    number = key.private_numbers()
    number = number.private_value if isinstance(key, ec.EllipticCurvePrivateKey) else number.d
    found = forms(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    return found | {line.encode() for line in pem.splitlines() if len(line) == 64}


def keys_of(*folders):
    """{file: needles} of all private keys that lie there: PEM, and the WireGuard keys of wardens."""
    found = {}
    for path in sorted(p for folder in folders for p in pathlib.Path(folder).rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.name.startswith("wireguard.key"):
            text = data.strip()
            raw = base64.b64decode(text) if len(text) == 44 else data
            found[str(path)] = forms(raw[:32])
        begin, end = data.find(b"-----BEGIN"), data.find(b"PRIVATE KEY-----\n", data.find(b"-----END"))
        if b"PRIVATE KEY-----" in data and begin >= 0 and end > begin:
            found[str(path)] = of_key(data[begin:end + 17].decode())
    return found


def of_challenges(tokens, thumbprints):
    """{what: needles} of tokens, key authorizations and their digests."""
    found = {}
    for token in tokens:
        found[f"token {token}"] = {token.encode()}
        for t in thumbprints:
            found[f"digest for {token}"] = forms(proofs.hashlib.sha256(f"{token}.{t}".encode()).digest())
    return found


def search(needles, haystacks):
    """(secret, where) of all that is found. haystacks: {where: bytes}."""
    return [(what, where) for where, hay in haystacks.items() for what, some in needles.items()
            if any(n in hay for n in some)]


def files(folder):
    """{path: bytes} of everything below a folder."""
    return {str(p): p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file() and not p.is_symlink()}
