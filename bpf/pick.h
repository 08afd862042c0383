/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Second stage: the policy picks, and the pick is selected, unless its queue is full or its slot empty.
 *
 * The kernel empties a slot when its socket closes or stops listening. Selecting it then fails
 * with -ENOENT, and another select in the same run is allowed.
 */
#pragma once

#include <linux/errno.h>

#include "policy/list.h"
#include "queue.h"
#include "request.h"

/* How often a policy may pick. Most pick once only. */
#define ATTEMPTS 4

static __always_inline bool slot_select(struct request *req, __u32 slot)
{
	long error = bpf_sk_select_reuseport(req->ctx, &sockets, MAP_KEY(slot), 0);

	if (!error)
		return true;
	note(req, error == -ENOENT ? REASON_EMPTY_SLOT : REASON_SELECT_ERROR);
	return false;
}

static __always_inline void attempts(struct request *req, struct choice *choice, bool accounts)
{
	/* Unrolled: see fallback.h. */
#pragma unroll
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int slot = policy_pick(req, attempt);

		if (slot < 0)
			return;
		/* A policy that knows whose queues are full picks such a member only if all are. */
		if (!req->check_full && queue_is_full(req->ctx, slot)) {
			req->check_full = CHECK_FULL | size_of(req->ctx);
			/* To least-loaded it is only one more thing to know of that member. */
			if (!accounts)
				note(req, REASON_QUEUE_FULL);
			continue;
		}
		if (slot_select(req, slot)) {
			choice->slot = slot;
			choice->reason = REASON_PICK;
			if (accounts)
				policy_selected(req, slot);
			return;
		}
		if (accounts)
			policy_empty(req, slot);
	}
}

static __always_inline void pick_and_select(struct request *req, struct choice *choice)
{
	/* Compiled twice: the other policies then carry nothing of what accounting takes. */
	if (policy_accounts(req))
		attempts(req, choice, true);
	else
		attempts(req, choice, false);
}
