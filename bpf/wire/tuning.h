/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Constants of least-loaded. docs/simulation.md says how they were chosen: the simulation compiles the
 * policies with variables in place of this header.
 */
#ifndef REUSEPORT_TUNING_H
#define REUSEPORT_TUNING_H

enum tuning {
	/* Groups of up to this many members are examined whole; of larger ones, a sample of this size. */
	SAMPLE = 16,
	/*
	 * Picks to a member of average weight in one window. Short, so that a member which attracts too
	 * much is stopped soon; long enough for each member to get what it deserves.
	 */
	WINDOW = 8,
	/* Windows until a new member may have its full limit. */
	SLOW_START = 8,
	/*
	 * Half-open requests that count in a queue. They count, so that a burst of SYNs within a round trip
	 * does not all go to one member. In a flood of SYNs they mean nothing, and with TCP_DEFER_ACCEPT they
	 * are connections whose clients are silent: hence the bound.
	 */
	HALF_OPEN_BOUND = 256,
	/*
	 * Picks that may stay uncounted, beyond those whose handshakes are under way, before a member's count
	 * is no longer trusted. Some do without anything being wrong: clients give up.
	 */
	UNCOUNTED = 8,
	/* The same where half-open requests are not known. */
	UNCOUNTED_BLIND = 64,
};

#endif
