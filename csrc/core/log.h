/* log.h - the order of a log. */
#ifndef MB_LOG_H
#define MB_LOG_H

#include "mobync.h"

/* Puts an owner's diffs into log order: by logical clock; in a log of mobync 0.2.0, where several
 * have one clock, then by timestamp, then as they were given.
 *
 * in_order    out: in arena, pointers into `diffs`
 *
 * Returns MB_OK or MB_NO_MEMORY.  Linear if the diffs are in order already.
 */
mb_status mb_log_order(const mb_diffs *diffs, mb_arena *arena, const mb_diff ***in_order);

#endif
