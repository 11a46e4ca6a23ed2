#ifdef __cplusplus
extern "C" {
#endif

/* Prints the formatted text, ": ", the calling thread's last message and a newline to stderr. */
#if defined(__GNUC__)
__attribute__((__format__(__printf__, 1, 2)))
#endif
void pmemset_perror(const char *format, ...);

#ifdef __cplusplus
}
#endif

#endif
