/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/http_bytes.h"

#define IN(c, a, b) ((c) >= (a) && (c) <= (b))
#define DIGIT(c) IN(c, '0', '9')
#define UPPER(c) IN(c, 'A', 'Z')
#define LOWER(c) IN(c, 'a', 'z')
#define MARK(c)                                                                                    \
	((c) == '!' || (c) == '#' || (c) == '$' || (c) == '%' || (c) == '&' || (c) == '\'' ||      \
	 (c) == '*' || (c) == '+' || (c) == '-' || (c) == '.' || (c) == '^' || (c) == '_' ||       \
	 (c) == '`' || (c) == '|' || (c) == '~')
#define VISIBLE(c) (IN(c, 0x21, 0x7e) && (c) != '#')

#define CLASS(c)                                                                                   \
	((DIGIT(c) || UPPER(c) || LOWER(c) || MARK(c) ? HTTP_B_TOKEN : 0) |                        \
	 ((c) == '\t' || IN(c, 0x20, 0x7e) || (c) >= 0x80 ? HTTP_B_VALUE : 0) |                    \
	 (VISIBLE(c) ? HTTP_B_TARGET : 0) |                                                        \
	 (VISIBLE(c) && (c) != '\\' && (c) != '%' && (c) != '?' ? HTTP_B_PATH : 0) |               \
	 (UPPER(c) || DIGIT(c) || (c) == '-' || (c) == '_' ? HTTP_B_METHOD : 0) |                  \
	 (DIGIT(c) ? HTTP_B_DIGIT : 0) |                                                           \
	 (DIGIT(c) || IN(c, 'a', 'f') || IN(c, 'A', 'F') ? HTTP_B_HEX : 0) |                       \
	 (DIGIT(c) || UPPER(c) || LOWER(c) || (c) == '-' || (c) == '.' || (c) == '_' ? HTTP_B_HOST \
										     : 0))

#define FOUR(c) CLASS(c), CLASS((c) + 1), CLASS((c) + 2), CLASS((c) + 3)
#define SIXTEEN(c) FOUR(c), FOUR((c) + 4), FOUR((c) + 8), FOUR((c) + 12)

const unsigned char http_bytes[256] = {
    SIXTEEN(0x00), SIXTEEN(0x10), SIXTEEN(0x20), SIXTEEN(0x30), SIXTEEN(0x40), SIXTEEN(0x50),
    SIXTEEN(0x60), SIXTEEN(0x70), SIXTEEN(0x80), SIXTEEN(0x90), SIXTEEN(0xa0), SIXTEEN(0xb0),
    SIXTEEN(0xc0), SIXTEEN(0xd0), SIXTEEN(0xe0), SIXTEEN(0xf0),
};
