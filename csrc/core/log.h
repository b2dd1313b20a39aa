/* log.h - the order of a log. */
#ifndef MB_LOG_H
#define MB_LOG_H

#include "mobync.h"

/* Puts an owner's diffs into log order: by logical clock. In a log of mobync 0.2.0, several diffs
 * have the same clock; those are ordered by timestamp, then as given.
 *
 * in_order    out: in arena, pointers into `diffs`
 *
 * Returns MB_OK or MB_NO_MEMORY. Linear if the diffs are already in order.
 */
mb_status mb_log_order(const mb_diffs *diffs, mb_arena *arena, const mb_diff ***in_order);

/* Finds when each member of a checked row of the log was written.
 *
 * members   the members of its json_data, member_count of them
 * times     out: milliseconds since 1970, one for each, in arena; NULL: all at utc_timestamp
 *
 * Returns MB_OK or MB_NO_MEMORY.
 */
mb_status mb_read_times(const mb_diff *diff, const mb_member *members, mb_arena *arena,
                        const int64_t **times);

#endif
