// SPDX-License-Identifier: GPL-2.0 OR MIT
/* No section `license`. */
#include "count.h"

SEC("sk_reuseport")
int count_only(struct sk_reuseport_md *md)
{
	count(RUNS);
	return SK_PASS;
}
