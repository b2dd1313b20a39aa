/* error.h - the message for each rule that a diff can break. */
#ifndef MB_ERROR_H
#define MB_ERROR_H

#include "mobync.h"

/* Like mb_refuse, for a byte of the text in which the field was found. Returns MB_INVALID. */
mb_status mb_refuse_at(mb_error *error, mb_code code, const char *field, size_t offset);

/* Like mb_refuse, for a limit that was exceeded. Returns MB_INVALID. */
mb_status mb_refuse_over(mb_error *error, mb_code code, const char *field, const size_t *limit);

/* The error for an id that names two things. Static: a request keeps it while its windows come and
 * go. */
extern const mb_error mb_other_object;

#endif
