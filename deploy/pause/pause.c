/*
 * pause: holds a pod's namespaces open. It does three things and needs no libc for them: it waits,
 * it reaps the orphans of a pod whose containers share one pid namespace, and it leaves with code 0
 * on TERM or INT.
 *
 * gcc -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables
 */
#include <asm/unistd.h>

enum { INT = 2, TERM = 15, CHLD = 17, WNOHANG = 1, BLOCK = 0, SET_BYTES = 8 };

static long call(long number, long a, long b, long c, long d)
{
	long result;
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	result = x0;
#else
#error "pause.c knows x86_64 and aarch64: add the system call of this machine to call()"
#endif
	return result;
}

#define BIT(signal) (1UL << ((signal) - 1))

void _start(void)
{
	unsigned long set = BIT(INT) | BIT(TERM) | BIT(CHLD);

	/* Blocked, so that a signal which arrives between two waits stays pending. */
	call(__NR_rt_sigprocmask, BLOCK, (long)&set, 0, SET_BYTES);
	for (;;) {
		long signal = call(__NR_rt_sigtimedwait, (long)&set, 0, 0, SET_BYTES);

		if (signal == CHLD) {
			while (call(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
				;
		} else if (signal > 0) {
			call(__NR_exit_group, 0, 0, 0, 0);
		}
	}
}
