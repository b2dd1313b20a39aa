/* names.h - objects and fields found by their names. */
#ifndef MB_NAMES_H
#define MB_NAMES_H

#include "table.h"

/* The first member of every item that is found by an object's name. */
typedef struct {
    mb_text model;
    mb_text id;
    size_t ordinal; /* counts the objects of one table */
} mb_object_name;

/* The first member of every item that is found by a field's name. */
typedef struct {
    size_t object; /* ordinal */
    mb_text field;
} mb_field_name;

/* The model of the object that was hashed last, because the next one mostly has the same. All zero:
 * none. */
typedef struct {
    mb_text name;
    uint64_t hash;
} mb_last_model;

/* Hashes the name of a diff's object.
 *
 * last    in, out; the model is borrowed
 */
uint64_t mb_hash_object(mb_last_model *last, const mb_diff *diff, const mb_arena *arena);

/* Objects by their names. */
typedef struct {
    mb_table table;
    mb_last_model last;
} mb_objects;

/* Makes a table of objects, like mb_table_init. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_objects_init(mb_objects *objects, size_t expected, mb_arena *arena);

/* Forgets the model that was hashed last: its text may have ended. */
void mb_forget_model(mb_objects *objects);

/* Finds the slot of a diff's object, like mb_table_find. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_find_object(mb_objects *objects, const mb_diff *diff, mb_arena *arena, mb_slot **slot);

/* Finds the slot of a field of an object, like mb_table_find. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_find_field(mb_table *fields, size_t object, mb_text field, mb_arena *arena,
                        mb_slot **slot);

/* Whether a member of json_data is the object's id and not a field. */
static inline bool mb_is_id(const mb_member *member)
{
    return member->name.size == 2 && member->name.at[0] == 'i' && member->name.at[1] == 'd';
}

#endif
