/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/h2_ws.h"
#include <openssl/evp.h>
#include <string.h>

#define SHA1_LEN 20

void h2_ws_key(const uint8_t random[static 16], char key[static H2_WS_KEY + 1])
{
	EVP_EncodeBlock((unsigned char *)key, random, 16);
}

static bool proof(const char *key, char out[static 29])
{
	static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	char text[H2_WS_KEY + sizeof(guid) - 1];
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int n;
	memcpy(text, key, H2_WS_KEY);
	memcpy(text + H2_WS_KEY, guid, sizeof(guid) - 1);
	if (EVP_Digest(text, sizeof(text), digest, &n, EVP_sha1(), NULL) != 1 || n != SHA1_LEN)
		return false;
	EVP_EncodeBlock((unsigned char *)out, digest, SHA1_LEN);
	return true;
}

bool h2_ws_accepted(const struct http_response *r, const char key[static H2_WS_KEY])
{
	char wanted[29];
	size_t given = 0;
	bool same = false;
	if (!http_str_is(r->upgrade_to, "websocket") || !proof(key, wanted))
		return false;
	for (size_t i = 0; i < r->n_fields; i++) {
		struct http_str v = r->fields[i].value;
		if (!http_str_is(r->fields[i].name, "sec-websocket-accept"))
			continue;
		given++;
		same = v.n == strlen(wanted) && !memcmp(v.p, wanted, v.n);
	}
	return given == 1 && same;
}
