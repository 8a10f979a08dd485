/* SPDX-License-Identifier: MIT */
/* Congestion marks through the tunnel: the table of RFC 6040, figure 4. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/wg/engine/ecn.h"
#include "libkm/wg/engine/packet.h"

enum { NOT_ECT, ECT1, ECT0, CE, DROP };

/* [inner][outer] */
static const int table[4][4] = {
    [NOT_ECT] = {[NOT_ECT] = NOT_ECT, [ECT0] = NOT_ECT, [ECT1] = NOT_ECT, [CE] = DROP},
    [ECT0] = {[NOT_ECT] = ECT0, [ECT0] = ECT0, [ECT1] = ECT1, [CE] = CE},
    [ECT1] = {[NOT_ECT] = ECT1, [ECT0] = ECT1, [ECT1] = ECT1, [CE] = CE},
    [CE] = {[NOT_ECT] = CE, [ECT0] = CE, [ECT1] = CE, [CE] = CE},
};

static void test_v4(void **state)
{
	uint8_t p[20] = {0x45}, want[20];
	uint16_t sum;

	(void)state;
	for (unsigned x = 0; x < 65536; x++) {
		p[1] = (uint8_t)x;
		p[4] = (uint8_t)(x >> 8); /* so that every checksum comes up */
		memset(p + 10, 0, 2);
		sum = (uint16_t)~wg_sum(p, sizeof(p), 0);
		memcpy(p + 10, &sum, 2);
		for (uint8_t outer = 0; outer < 4; outer++) {
			uint8_t q[20];
			int expect = table[x & 3][outer];

			memcpy(q, p, sizeof(q));
			assert_int_equal(wg_ecn_of(q), x & 3);
			assert_int_equal(wg_ecn_decap(q, outer | 0x88), expect != DROP);
			memcpy(want, p, sizeof(want));
			if (expect != DROP)
				want[1] = (uint8_t)((x & 0xfc) | (unsigned)expect);
			assert_int_equal(wg_sum(q, sizeof(q), 0), 0xffff);
			memcpy(want + 10, q + 10, 2);
			assert_memory_equal(q, want, sizeof(q));
		}
	}
}

static void test_v6(void **state)
{
	(void)state;
	for (unsigned x = 0; x < 256; x++) {
		for (uint8_t outer = 0; outer < 4; outer++) {
			uint8_t q[40] = {0x6a, (uint8_t)x, 0x77};
			unsigned inner = x >> 4 & 3;
			int expect = table[inner][outer];

			assert_int_equal(wg_ecn_of(q), inner);
			assert_int_equal(wg_ecn_decap(q, outer), expect != DROP);
			if (expect == DROP)
				expect = (int)inner;
			assert_int_equal(q[1], (x & 0xcf) | (unsigned)expect << 4);
			assert_int_equal(q[0], 0x6a);
			assert_int_equal(q[2], 0x77);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_v4),
	    cmocka_unit_test(test_v6),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
