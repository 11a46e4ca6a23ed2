/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * authtok.c -- gives the kernel a key for ecryptfs, the same at each time, and prints its signature.
 */
#include <linux/keyctl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* what the kernel's linux/ecryptfs.h calls struct ecryptfs_auth_tok, of a password */
struct password {
	uint32_t bytes, hash, iterations, key_bytes, flags;
	uint8_t key[64], signature[17], salt[8];
};

static struct {
	uint16_t version, type;
	uint32_t flags;
	struct {
		uint32_t flags, encrypted_size, decrypted_size;
		uint8_t encrypted[512], decrypted[64];
	} session;
	uint8_t reserved[32];
	struct password password;
} __attribute__((packed)) token = { .version = 4, .password = { .key_bytes = 64, .flags = 2 } };

int main(void)
{
	static const char signature[] = "0123456789abcdef";

	memset(token.password.key, 'k', sizeof(token.password.key));
	memcpy(token.password.signature, signature, sizeof(signature));
	/* The thread's own key ring would end with it. */
	if (syscall(SYS_add_key, "user", signature, &token, sizeof(token), KEY_SPEC_USER_KEYRING) < 0 ||
	    syscall(SYS_keyctl, KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_USER_SESSION_KEYRING) < 0) {
		perror("authtok");
		return 1;
	}
	puts(signature);
	return 0;
}
