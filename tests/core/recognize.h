/* recognize.h - what a request has in common with a window, where no id names two things. */
#ifndef MB_TEST_RECOGNIZE_H
#define MB_TEST_RECOGNIZE_H

#include "frame.h"

#include "../../csrc/core/mobync.h"

static inline mb_status recognize(mb_arena *arena, mb_diffs *window, mb_diffs *request)
{
    size_t index = 0;
    mb_error error;
    const mb_status status = mb_recognize(arena, window, request, false, &index, &error);
    CHECK(status != MB_INVALID);
    return status;
}

#endif
