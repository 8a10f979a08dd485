/* SPDX-License-Identifier: MIT */
#include "controld/api/domain.h"
#include <ctype.h>
#include <idn2.h>
#include <stdbool.h>
#include <string.h>

/* Pure ASCII without a label that claims to be encoded needs no IDNA, whose hyphen rules would
 * refuse names that exist ("r3---sn.example"). */
static bool needs_idna(const char *s)
{
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p >= 0x80)
			return true;
	for (const char *p = s; p; p = strchr(p, '.') ? strchr(p, '.') + 1 : NULL)
		if (strncasecmp(p, "xn--", 4) == 0)
			return true;
	return false;
}

static int encode(char out[static DOMAIN_STRLEN], size_t room, const char *in,
		  struct km_errtext *err)
{
	if (!needs_idna(in)) {
		size_t n = strlen(in);
		if (n > room)
			return km_errtext_set(err, KM_EINVAL, "is longer than 253 bytes");
		for (size_t i = 0; i <= n; i++)
			out[i] = (char)tolower((unsigned char)in[i]);
		return 0;
	}
	uint8_t *ascii = NULL;
	int rc = idn2_lookup_u8((const uint8_t *)in, &ascii,
				IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL | IDN2_USE_STD3_ASCII_RULES);
	if (rc != IDN2_OK)
		return km_errtext_set(err, KM_EINVAL, "is not a valid international name: %s",
				      idn2_strerror(rc));
	size_t n = strlen((char *)ascii);
	if (n > room)
		rc = km_errtext_set(err, KM_EINVAL, "is longer than 253 bytes");
	else
		memcpy(out, ascii, n + 1);
	idn2_free(ascii);
	return rc;
}

static int check_labels(const char *s, struct km_errtext *err)
{
	size_t labels = 0, len;
	bool digits = true;
	for (const char *p = s;; p += len + 1) {
		len = strcspn(p, ".");
		if (len == 0)
			return km_errtext_set(err, KM_EINVAL, "has an empty label");
		if (len > 63)
			return km_errtext_set(err, KM_EINVAL, "has a label longer than 63 bytes");
		digits = true;
		for (size_t i = 0; i < len; i++) {
			unsigned char c = (unsigned char)p[i];
			if (c == '*')
				return km_errtext_set(err, KM_EINVAL,
						      "may have '*' only as its whole first label");
			if (!isalnum(c) && c != '-')
				return km_errtext_set(
				    err, KM_EINVAL,
				    "may hold letters, digits, hyphens and dots only");
			digits = digits && isdigit(c);
		}
		if (p[0] == '-' || p[len - 1] == '-')
			return km_errtext_set(err, KM_EINVAL,
					      "has a label that begins or ends with a hyphen");
		labels++;
		if (!p[len])
			break;
	}
	if (digits)
		return km_errtext_set(err, KM_EINVAL, "must be a name, not an address");
	if (labels < 2)
		return km_errtext_set(err, KM_EINVAL, "must have at least two labels");
	return 0;
}

int domain_normalize(char out[static DOMAIN_STRLEN], const char *in, struct km_errtext *err)
{
	size_t skip = strncmp(in, "*.", 2) == 0 ? 2 : 0;
	if (!in[skip])
		return km_errtext_set(err, KM_EINVAL, "must not be empty");
	if (strlen(in) > 1024)
		return km_errtext_set(err, KM_EINVAL, "is longer than 253 bytes");
	if (strncmp(in + skip, "*.", 2) == 0)
		return km_errtext_set(err, KM_EINVAL, "may have '*' only as its whole first label");
	char text[1025];
	strcpy(text, in + skip);
	size_t n = strlen(text);
	if (n > 1 && text[n - 1] == '.')
		text[n - 1] = '\0';
	memcpy(out, "*.", 3);
	int rc = encode(out + skip, 253 - skip, text, err);
	if (rc == 0)
		rc = check_labels(out + skip, err);
	return rc;
}
