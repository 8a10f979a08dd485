# SPDX-License-Identifier: MIT
"""What a CA computes: signatures of requests (RFC 7515), certificates, and the proofs of control over a name
(RFC 8555 section 8, RFC 8737), fetched as a CA does, by connecting."""
import base64
import datetime
import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class Refused(Exception):
    """A problem document (RFC 7807): its type behind urn:ietf:params:acme:error:, its text, HTTP's status."""

    def __init__(self, type_, detail, status=400, **headers):
        super().__init__(f"{type_}: {detail}")
        self.type, self.detail, self.status, self.headers = type_, detail, status, headers


# ---- JWS ---------------------------------------------------------------------------------------

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    if not isinstance(text, str) or "=" in text or "+" in text or "/" in text:
        raise Refused("malformed", "no base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def thumbprint(jwk):
    text = json.dumps({k: jwk[k] for k in ("crv", "kty", "x", "y")}, sort_keys=True, separators=(",", ":"))
    return b64(hashlib.sha256(text.encode()).digest())


def public_key(jwk):
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or set(jwk) - {"kty", "crv", "x", "y"}:
        raise Refused("badPublicKey", "no P-256 key")
    x, y = unb64(jwk["x"]), unb64(jwk["y"])
    if len(x) != 32 or len(y) != 32:
        raise Refused("badPublicKey", "a coordinate that has not 32 bytes")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"),
                                         ec.SECP256R1()).public_key()


def es256(key, jws):
    """The JWS bears the signature of this key, in JOSE's form (not DER)."""
    sig = unb64(jws["signature"])
    if len(sig) != 64:
        raise Refused("malformed", f"a signature of {len(sig)} bytes")
    der = utils.encode_dss_signature(int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big"))
    try:
        key.verify(der, f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Refused("malformed", "the signature does not verify") from None


def hs256(key, jws):
    want = hmac.new(unb64(key), f"{jws['protected']}.{jws['payload']}".encode(), hashlib.sha256).digest()
    return hmac.compare_digest(want, unb64(jws["signature"]))


# ---- certificates ------------------------------------------------------------------------------

def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def at(seconds):
    return datetime.datetime.utcfromtimestamp(seconds)


def make_issuer(name, now, parent=None, key=None):
    """(certificate, key): a root, or an intermediate of parent; of this key, if there is one already."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    above, signer = parent or (None, key)
    b = (x509.CertificateBuilder().subject_name(_name(name)).issuer_name(above.subject if above else _name(name))
         .public_key(key.public_key()).serial_number(x509.random_serial_number())
         .not_valid_before(at(now - 400 * 86400)).not_valid_after(at(now + 4000 * 86400))
         .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
         .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
         .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))
    if above:
        b = b.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    return b.sign(signer, hashes.SHA256()), key


def make_leaf(issuer, public, names, not_before, not_after):
    """Its serial number has its highest bit set: DER puts a zero before it."""
    cert, key = issuer
    sans = [x509.IPAddress(ipaddress.ip_address(n)) if is_ip(n) else x509.DNSName(n) for n in names]
    return (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(cert.subject).public_key(public)
            .serial_number(int.from_bytes(os.urandom(16), "big") | 1 << 127)
            .not_valid_before(at(not_before)).not_valid_after(at(not_after))
            .add_extension(x509.SubjectAlternativeName(sans), critical=True)
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256()))


def pem(cert):
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def der(cert):
    return cert.public_bytes(serialization.Encoding.DER)


def ari_id(cert):
    """RFC 9773 section 4.1."""
    aki = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    n = cert.serial_number
    return f"{b64(aki)}.{b64(n.to_bytes(n.bit_length() // 8 + 1, 'big'))}"


def csr_key(raw, names):
    """The public key of a certificate request that asks for exactly these names."""
    try:
        csr = x509.load_der_x509_csr(raw)
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as e:
        raise Refused("badCSR", str(e)) from None
    asked = [n.value if isinstance(n, x509.DNSName) else str(n.value) for n in san]
    common = [a.value for a in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not csr.is_signature_valid or sorted(asked) != sorted(names) or set(common) - set(names):
        raise Refused("badCSR", f"asks for {asked} (CN {common}), the order is for {names}")
    return csr.public_key()


def is_ip(name):
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


# ---- proofs ------------------------------------------------------------------------------------

def http_01(connect, address, name, token, want):
    try:
        c = http.client.HTTPConnection(name, 80)
        c.sock = connect(address, 80)
        try:
            c.request("GET", f"/.well-known/acme-challenge/{token}")
            answer = c.getresponse()
            body = answer.read(1000)
        finally:
            c.close()
    except (OSError, http.client.HTTPException) as e:
        raise Refused("connection", f"{address}: {e}") from None
    if answer.status != 200 or body.strip() != want.encode():
        raise Refused("unauthorized", f"{address}: {answer.status} {body[:100]!r}", 403)


def tls_alpn_01(connect, address, name, _token, want):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    ctx.set_alpn_protocols(["acme-tls/1"])
    sni = ipaddress.ip_address(name).reverse_pointer if is_ip(name) else name
    try:
        raw = connect(address, 443)
        try:
            with ctx.wrap_socket(raw, server_hostname=sni) as s:
                protocol, shown = s.selected_alpn_protocol(), s.getpeercert(binary_form=True)
        finally:
            raw.close()
    except OSError as e:
        raise Refused("tls" if isinstance(e, ssl.SSLError) else "connection", f"{address}: {e}") from None
    if protocol != "acme-tls/1":
        raise Refused("unauthorized", f"{address}: the protocol {protocol} was chosen", 403)
    cert = x509.load_der_x509_certificate(shown)
    digest = hashlib.sha256(want.encode()).digest()
    try:
        san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ext = cert.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound as e:
        raise Refused("unauthorized", f"{address}: {e}", 403) from None
    names = [str(n.value) for n in san]
    if names != [name] or not ext.critical or ext.value.value != b"\x04\x20" + digest:
        raise Refused("unauthorized", f"{address}: a certificate for {names} that does not prove it", 403)


def dns_01(texts, want):
    if b64(hashlib.sha256(want.encode()).digest()) not in texts:
        raise Refused("unauthorized", f"the TXT records are {texts}", 403)


def dns_persist_01(texts, issuer, account, wildcard):
    for text in texts:
        first, *params = [p.strip() for p in text.split(";")]
        fields = dict(p.split("=", 1) for p in params if "=" in p)
        if first == issuer and fields.get("accounturi") == account and \
                (not wildcard or fields.get("policy") == "wildcard"):
            return
    raise Refused("unauthorized", f"the TXT records are {texts}", 403)
