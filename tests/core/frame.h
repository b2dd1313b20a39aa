/* frame.h - how a plain C test is written, run and counted.
 *
 *     TEST(a_rule_in_words)
 *     {
 *         CHECK(1 + 1 == 2);
 *     }
 *
 *     int main(void)
 *     {
 *         RUN(a_rule_in_words);
 *         return tests_end();
 *     }
 *
 * A check that does not hold says where it stands and what it asked, and ends its test; the other
 * tests still run.  A test that is never RUN is an unused function, which the compiler refuses.
 */
#ifndef MB_TEST_FRAME_H
#define MB_TEST_FRAME_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct {
    unsigned passed;
    unsigned failed;
    const char *name;
    char row[160]; /* what a test that walks a table is at */
    jmp_buf leave;
} tests;

#define TEST(name) static void name(void)

#define RUN(test)                                                                                  \
    do {                                                                                           \
        tests.name = #test;                                                                        \
        tests.row[0] = '\0';                                                                       \
        if (setjmp(tests.leave) == 0) {                                                            \
            test();                                                                                \
            tests.passed++;                                                                        \
        } else {                                                                                   \
            tests.failed++;                                                                        \
        }                                                                                          \
    } while (0)

#define CHECK(...) ((__VA_ARGS__) ? (void)0 : check_failed(__FILE__, __LINE__, #__VA_ARGS__))

#define CHECK_TEXT(given, wanted) check_text(__FILE__, __LINE__, #given, given, wanted)

/* Names the row that the following checks are about; as printf. */
__attribute__((format(printf, 1, 2))) static inline void at_row(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(tests.row, sizeof tests.row, format, arguments);
    va_end(arguments);
}

_Noreturn static inline void leave_test(void)
{
    if (tests.row[0] != '\0')
        fprintf(stderr, "    at: %s\n", tests.row);
    longjmp(tests.leave, 1);
}

_Noreturn static inline void check_failed(const char *file, int line, const char *expression)
{
    fprintf(stderr, "%s:%d: %s: %s\n", file, line, tests.name, expression);
    leave_test();
}

static inline void check_text(const char *file, int line, const char *expression, const char *given,
                              const char *wanted)
{
    if (strcmp(given, wanted) == 0)
        return;
    fprintf(stderr, "%s:%d: %s: %s\n    is:\n%s\n    not:\n%s\n", file, line, tests.name,
            expression, given, wanted);
    leave_test();
}

/* Prints the closing line; gives the exit code. */
static inline int tests_end(void)
{
    printf("%u passed, %u failed\n", tests.passed, tests.failed);
    return tests.failed != 0;
}

#endif
