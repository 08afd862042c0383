/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Last stage: the decision is known, and is counted.
 */
#pragma once

#include "count.h"
#include "request.h"

static __always_inline enum reason counted_as(struct request *req, struct choice *choice)
{
	if (req->arrival == ARRIVAL_STRAY)
		return REASON_STRAY;
	if (req->arrival == ARRIVAL_MIGRATION)
		return choice->slot >= 0 ? REASON_MIGRATION : REASON_MIGRATION_KERNEL;
	return choice->reason;
}

static __always_inline void decided(struct request *req, struct choice *choice)
{
	count_noted(req->noted);
	count(counted_as(req, choice));
	/* What a full member gets, the kernel drops. */
	if (req->arrival == ARRIVAL_NEW && choice->slot >= 0 && choice->reason != REASON_FALLBACK_FULL)
		count_selected(choice->slot);
}
