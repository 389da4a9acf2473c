// MQTT.js as a foreign client, with the scenarios of the matrix in JavaScript.
//
// Owns the same scenarios as scenarios.py, under the same names, because a
// library of Node.js cannot be driven from Python. Prints one line of JSON for
// each. Nothing here sleeps: what must come has a deadline, and what must not
// come is shown by a later message that arrives without it.

'use strict'

const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const fs = require('node:fs')
const { parseArgs } = require('node:util')
const mqtt = require('mqtt')

const DEADLINE_MS = 10_000
const SESSION_SECONDS = 300

const { values: options } = parseArgs({
  options: {
    host: { type: 'string' },
    port: { type: 'string' },
    transport: { type: 'string' },
    version: { type: 'string' },
    authority: { type: 'string' },
    scenario: { type: 'string' }
  }
})
const isV5 = options.version === '5'

function newId () {
  return 'mqttjs-' + randomUUID().slice(0, 12)
}

// Rejects when `work` takes longer than the deadline.
async function inTime (work, what) {
  let timer
  const late = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${DEADLINE_MS} ms`)), DEADLINE_MS)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

// Messages in the order they came, for one reader at a time.
class Inbox {
  constructor () {
    this.messages = []
    this.wake = null
  }

  put (message) {
    this.messages.push(message)
    if (this.wake) this.wake()
  }

  async receive () {
    while (this.messages.length === 0) {
      const arrival = new Promise(resolve => { this.wake = resolve })
      await inTime(arrival, 'message')
    }
    return this.messages.shift()
  }
}

class Connection {
  static async open ({ clientId = newId(), clean = true, will, inbox = new Inbox() } = {}) {
    const connection = new Connection()
    connection.inbox = inbox
    const settings = {
      protocol: { tcp: 'mqtt', tls: 'mqtts', ws: 'ws', wss: 'wss' }[options.transport],
      host: options.host,
      port: Number(options.port),
      path: '/mqtt',
      protocolVersion: Number(options.version),
      clientId,
      clean,
      will,
      reconnectPeriod: 0,
      connectTimeout: DEADLINE_MS
    }
    if (['tls', 'wss'].includes(options.transport)) {
      settings.ca = fs.readFileSync(options.authority)
    }
    if (isV5 && !clean) {
      settings.properties = { sessionExpiryInterval: SESSION_SECONDS }
    }
    const client = mqtt.connect(settings)
    connection.client = client
    client.on('message', (topic, payload, packet) => {
      inbox.put({
        topic,
        payload: payload.toString(),
        qos: packet.qos,
        retain: packet.retain,
        properties: packet.properties ?? {}
      })
    })
    const connack = new Promise((resolve, reject) => {
      client.once('connect', resolve)
      client.on('error', reject)
    })
    connection.sessionPresent = (await inTime(connack, 'CONNACK')).sessionPresent
    return connection
  }

  async subscribe (filter, qos, properties) {
    const granted = await inTime(this.client.subscribeAsync(filter, { qos, properties }), 'SUBACK')
    assert(granted.every(one => one.qos < 0x80), 'subscription refused')
  }

  publish (topic, payload, qos, extra = {}) {
    return inTime(this.client.publishAsync(topic, payload, { qos, ...extra }), 'acknowledgement')
  }

  receive () {
    return this.inbox.receive()
  }

  async expect (topic, payload, qos) {
    const message = await this.receive()
    assert.equal(message.topic, topic)
    assert.equal(message.payload.slice(0, 60), payload.slice(0, 60), `payload of ${topic}`)
    assert(message.payload === payload, `payload of ${topic} differs`)
    assert.equal(message.qos, qos, `QoS of ${topic}`)
    return message
  }

  disconnect () {
    return inTime(this.client.endAsync(), 'end')
  }

  // Drops the connection without a word.
  cut () {
    this.client.stream.destroy()
  }
}

async function roundTrip (topic, qos) {
  const payloads = ['hello', '', 'Grüße ☃ 車', 'x'.repeat(20_000)]
  const connection = await Connection.open()
  await connection.subscribe(topic, qos)
  for (const payload of payloads) await connection.publish(topic, payload, qos)
  for (const payload of payloads) {
    const message = await connection.expect(topic, payload, qos)
    assert.equal(message.retain, false, 'retain flag of a live message')
  }
  await connection.publish(topic, 'last', qos)
  await connection.expect(topic, 'last', qos)
  await connection.disconnect()
}

async function retained (base) {
  const topic = `${base}/state`
  const publisher = await Connection.open()
  await publisher.publish(topic, 'on', 1, { retain: true })

  let reader = await Connection.open()
  await reader.subscribe(`${base}/#`, 1)
  assert.equal((await reader.expect(topic, 'on', 1)).retain, true, 'retain flag for a new subscription')
  await publisher.publish(topic, 'off', 1, { retain: true })
  assert.equal((await reader.expect(topic, 'off', 1)).retain, false, 'retain flag of a live message')
  await publisher.publish(topic, '', 1, { retain: true })
  await reader.expect(topic, '', 1)
  await reader.disconnect()

  reader = await Connection.open()
  await reader.subscribe(`${base}/#`, 1)
  await publisher.publish(`${base}/later`, 'sentinel', 1)
  await reader.expect(`${base}/later`, 'sentinel', 1)
  await reader.disconnect()
  await publisher.disconnect()
}

async function will (base) {
  const topic = `${base}/will`
  const watcher = await Connection.open()
  await watcher.subscribe(`${base}/#`, 1)
  const polite = await Connection.open({ will: { topic, payload: 'polite', qos: 1, retain: false } })
  await polite.disconnect()
  const victim = await Connection.open({ will: { topic, payload: 'gone', qos: 1, retain: false } })
  victim.cut()
  await watcher.expect(topic, 'gone', 1)
  await watcher.disconnect()
}

async function resume (base) {
  const clientId = newId()
  let sleeper = await Connection.open({ clientId, clean: false })
  assert.equal(sleeper.sessionPresent, false, 'session present at first')
  await sleeper.subscribe(`${base}/#`, 2)
  await sleeper.disconnect()

  const publisher = await Connection.open()
  const sent = Array.from({ length: 10 }, (_, number) => [number % 2 + 1, `offline ${number}`])
  for (const [qos, payload] of sent) await publisher.publish(`${base}/queue`, payload, qos)

  sleeper = await Connection.open({ clientId, clean: false })
  assert.equal(sleeper.sessionPresent, true, 'session present after the pause')
  const received = []
  for (const _ of sent) received.push(await sleeper.receive())
  // Some clients hand over QoS 2 later than QoS 1, so order holds within each.
  for (const level of [1, 2]) {
    assert.deepEqual(
      received.filter(message => message.qos === level).map(message => message.payload),
      sent.filter(([qos]) => qos === level).map(([, payload]) => payload),
      `messages queued with QoS ${level}`
    )
  }
  await publisher.publish(`${base}/live`, 'live', 2)
  await sleeper.expect(`${base}/live`, 'live', 2)
  await publisher.disconnect()
  await sleeper.disconnect()
  // A clean start ends the session, so that nothing stays behind.
  const end = await Connection.open({ clientId, clean: true })
  assert.equal(end.sessionPresent, false, 'session present after a clean start')
  await end.disconnect()
}

async function userProperties (topic) {
  const userProperties = { vin: ['A', 'B'], unit: 'km/h' }
  const connection = await Connection.open()
  await connection.subscribe(topic, 1)
  await connection.publish(topic, 'x', 1, { properties: { userProperties } })
  const message = await connection.expect(topic, 'x', 1)
  assert.deepEqual({ ...message.properties.userProperties }, userProperties)
  await connection.disconnect()
}

async function requestResponse (base) {
  const [request, response] = [`${base}/request`, `${base}/response`]
  const asker = await Connection.open()
  await asker.subscribe(response, 1)
  const answerer = await Connection.open()
  await answerer.subscribe(request, 1)
  await asker.publish(request, 'speed?', 1, {
    properties: { responseTopic: response, correlationData: Buffer.from('command-42') }
  })
  const asked = await answerer.expect(request, 'speed?', 1)
  assert.equal(asked.properties.responseTopic, response)
  assert.equal(asked.properties.correlationData.toString(), 'command-42')
  await answerer.publish(asked.properties.responseTopic, '88', 1, {
    properties: { correlationData: asked.properties.correlationData }
  })
  const answer = await asker.expect(response, '88', 1)
  assert.equal(answer.properties.correlationData.toString(), 'command-42')
  await asker.disconnect()
  await answerer.disconnect()
}

async function subscriptionId (topic) {
  const connection = await Connection.open()
  await connection.subscribe(topic, 1, { subscriptionIdentifier: 268_435_455 })
  await connection.publish(topic, 'x', 1)
  const message = await connection.expect(topic, 'x', 1)
  assert.deepEqual([message.properties.subscriptionIdentifier].flat(), [268_435_455])
  await connection.disconnect()
}

async function expiry (base) {
  const [long, short, later] = [`${base}/long`, `${base}/short`, `${base}/later`]
  const publisher = await Connection.open()
  const lives = seconds => ({ retain: true, properties: { messageExpiryInterval: seconds } })
  await publisher.publish(long, 'kept', 1, lives(600))
  await publisher.publish(short, 'gone', 1, lives(1))
  const deadline = Date.now() + DEADLINE_MS
  for (;;) {
    const reader = await Connection.open()
    await reader.subscribe(`${base}/#`, 1)
    await publisher.publish(later, 'sentinel', 1)
    const seen = new Map()
    while (!seen.has(later)) {
      const message = await reader.receive()
      seen.set(message.topic, message)
    }
    await reader.disconnect()
    assert(seen.has(long), 'a message with 600 s to live is gone')
    const remaining = seen.get(long).properties.messageExpiryInterval
    assert(remaining > 600 - DEADLINE_MS / 1000 - 1 && remaining <= 600, `remaining expiry of ${remaining} s`)
    if (!seen.has(short)) break
    assert(Date.now() < deadline, 'a message with 1 s to live is still delivered')
  }
  await publisher.publish(long, '', 1, { retain: true })
  await publisher.disconnect()
}

async function topicAlias (topic) {
  const reader = await Connection.open()
  await reader.subscribe(topic, 1)
  const publisher = await Connection.open()
  const payloads = ['first', 'second', 'third']
  for (const [index, payload] of payloads.entries()) {
    await publisher.publish(index === 0 ? topic : '', payload, 1, { properties: { topicAlias: 1 } })
  }
  for (const payload of payloads) await reader.expect(topic, payload, 1)
  await publisher.disconnect()
  await reader.disconnect()
}

async function shared (topic) {
  const inbox = new Inbox()
  const members = [await Connection.open({ inbox }), await Connection.open({ inbox })]
  for (const member of members) await member.subscribe(`$share/workers/${topic}`, 1)
  const observer = await Connection.open()
  await observer.subscribe(topic, 1)
  const payloads = Array.from({ length: 10 }, (_, number) => `job ${number}`)
  for (const payload of payloads) await observer.publish(topic, payload, 1)
  for (const payload of payloads) await observer.expect(topic, payload, 1)
  const received = []
  for (const _ of payloads) received.push((await inbox.receive()).payload)
  assert.deepEqual(received.sort(), payloads.sort(), 'what the members received together')
  // A message that went to both members would still be waiting before this one.
  await observer.publish(topic, 'last', 1)
  await members[0].expect(topic, 'last', 1)
  for (const connection of [...members, observer]) await connection.disconnect()
}

const ANY_VERSION = {
  qos0: topic => roundTrip(topic, 0),
  qos1: topic => roundTrip(topic, 1),
  qos2: topic => roundTrip(topic, 2),
  retained,
  will,
  resume
}

const VERSION_5 = {
  'user-properties': userProperties,
  'request-response': requestResponse,
  'subscription-id': subscriptionId,
  expiry,
  'topic-alias': topicAlias,
  shared
}

async function main () {
  for (const [name, play] of Object.entries({ ...ANY_VERSION, ...(isV5 ? VERSION_5 : {}) })) {
    if (options.scenario && options.scenario !== name) continue
    let verdict = 'pass'
    let detail = ''
    try {
      await play(`interop/${name}/${newId()}`)
    } catch (error) {
      verdict = 'fail'
      detail = String(error.message).split('\n').slice(0, 4).join(' ')
    }
    process.stdout.write(JSON.stringify({ scenario: name, verdict, detail }) + '\n')
  }
}

// What a failed scenario left open must not keep the program alive.
main().then(() => process.exit(0))
