/* names.h - objects and fields found by their names. */
#ifndef MB_NAMES_H
#define MB_NAMES_H

#include "table.h"

/* The first member of whatever is found by an object's name. */
typedef struct {
    mb_text model;
    mb_text id;
    size_t ordinal; /* counts the objects of one table */
} mb_object_name;

/* The first member of whatever is found by a field's name. */
typedef struct {
    size_t object; /* ordinal */
    mb_text field;
} mb_field_name;

/* Finds the slot of an object, as mb_table_find does.  Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_find_object(mb_table *objects, mb_text model, mb_text id, mb_arena *arena,
                         mb_slot **slot);

/* Finds the slot of a field of an object, as mb_table_find does.
 * Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_find_field(mb_table *fields, size_t object, mb_text field, mb_arena *arena,
                        mb_slot **slot);

/* Whether a member of json_data is the object's id and not a field. */
bool mb_is_id(const mb_member *member);

#endif
